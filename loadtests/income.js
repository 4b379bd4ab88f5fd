// The original's: 10 virtual users record the income of the file for 60 s.

import { INCOME, ORIGINAL_OPTIONS, record } from './lib.js';

export const options = ORIGINAL_OPTIONS;

export default function () {
  record(INCOME, 'income');
}
