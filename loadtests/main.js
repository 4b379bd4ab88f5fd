// The original's: 10 virtual users do all three for 60 s: an income, an expense, the balance.

import balance from './balance.js';
import expense from './expense.js';
import income from './income.js';
import { openAccount, ORIGINAL_OPTIONS } from './lib.js';

export const options = ORIGINAL_OPTIONS;

export const setup = openAccount;

export default function () {
  income();
  expense();
  balance();
}
