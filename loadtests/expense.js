// The original's: 10 virtual users record the expense of the file for 60 s.
// Its account has no overdraft limit unless one was set; with one, expenses end in 422.

import { EXPENSE, ORIGINAL_OPTIONS, record } from './lib.js';

export const options = ORIGINAL_OPTIONS;

export default function () {
  record(EXPENSE, 'expense');
}
