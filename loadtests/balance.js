// The original's: 10 virtual users read the files' account for 60 s.

import { INCOME, openAccount, ORIGINAL_OPTIONS, readBalance } from './lib.js';

export const options = ORIGINAL_OPTIONS;

export const setup = openAccount;

export default function () {
  readBalance(INCOME.accountId);
}
