// Each user records and at once asks for a balance that has it. The service waits for the
// projection, so the script asks once and never polls; read_your_write is what the user waits.

import { check } from 'k6';
import { Trend } from 'k6/metrics';

import { freshRun, readBalance, record } from './lib.js';

const readYourWrite = new Trend('read_your_write', true);

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: {
    users: { executor: 'constant-vus', vus: 10, duration: '60s', tags: { test: 'own-writes' } },
  },
  thresholds: {
    checks: ['rate==1'],
    'http_req_failed{test:own-writes}': ['rate==0'],
    'http_req_duration{name:record}': ['p(95)<300'],
    read_your_write: ['p(50)<100', 'p(95)<500'],
  },
};

export const setup = freshRun;

/** @param {{ run: string }} data */
export default function (data) {
  // An account for each user: nobody else writes, so the balance is known to the last unit.
  const accountId = `${data.run}-${__VU}`;
  const income = __ITER % 2 === 0;
  const type = income ? 'INCOME' : 'EXPENSE';
  const value = income ? 10.25 : 3.1;
  const written = record({ accountId, description: 'own write', type, value });
  if (written.status !== 201) return;
  const began = Date.now();
  const read = readBalance(accountId, Number(written.json('position')));
  readYourWrite.add(Date.now() - began);
  check(read, {
    'own write is read': (r) =>
      r.status === 200 &&
      r.json('position') === written.json('position') &&
      r.json('value') === written.json('balance'),
  });
}
