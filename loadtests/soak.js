// A steady rate for an hour: the last part is to be as quick as the first. One in ten transactions is
// sent again with its key, as by a client whose connection broke, and must be found recorded.

import { check } from 'k6';

import { freshRun, numberFrom, post, readBalance } from './lib.js';

const RATE = numberFrom('RATE', 50);
const MINUTES = numberFrom('MINUTES', 60);
const ACCOUNTS = 1000;
const REPEATED_ONE_IN = 10;
const PARTS = ['first', 'middle', 'last'];

// Thresholds know tags and no times, so each part of the hour is a scenario of its own.
/** @type {Record<string, import('k6/options').Scenario>} */
const scenarios = Object.fromEntries(
  PARTS.map((part, place) => [
    part,
    {
      executor: 'constant-arrival-rate',
      startTime: `${place * MINUTES * 20}s`,
      rate: RATE,
      timeUnit: '1s',
      duration: `${MINUTES * 20}s`,
      preAllocatedVUs: 50,
      maxVUs: 500,
      tags: { part },
    },
  ]),
);

/** @type {import('k6/options').Options} */
export const options = {
  scenarios,
  thresholds: {
    checks: ['rate>0.9999'],
    http_req_failed: ['rate<0.0001'],
    'http_req_duration{part:first}': ['p(95)<300'],
    'http_req_duration{part:middle}': ['p(95)<300'],
    'http_req_duration{part:last}': ['p(95)<300'],
  },
};

export const setup = freshRun;

/** @param {{ run: string }} data */
export default function (data) {
  const accountId = `${data.run}-${Math.floor(Math.random() * ACCOUNTS)}`;
  const transaction = { accountId, description: 'soak', type: 'INCOME', value: 1 };
  const key = { 'Idempotency-Key': `${data.run}-${Date.now()}-${__VU}-${__ITER}` };
  const answer = post(transaction, key);
  if (!check(answer, { 'recorded: status is 201': (r) => r.status === 201 })) return;
  if (__ITER % REPEATED_ONE_IN === 0) {
    const again = post(transaction, key);
    check(again, {
      'repetition is answered by the first': (r) =>
        r.headers['Idempotency-Replayed'] === 'true' && r.json('id') === answer.json('id'),
    });
  }
  readBalance(accountId, Number(answer.json('position')));
}
