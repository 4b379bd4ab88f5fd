// Everybody pays into one account, which is the worst case for locks. Each transaction is worth 1,
// so after N of them the balance is N, at whatever moment one looks: a lost update or one applied
// twice shows in the answer itself.

import { check } from 'k6';

import { freshRun, readBalance, record } from './lib.js';

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: {
    hot: { executor: 'constant-vus', vus: 50, duration: '60s', tags: { test: 'hot-account' } },
  },
  thresholds: {
    checks: ['rate==1'],
    'http_req_failed{test:hot-account}': ['rate<0.001'],
    'http_req_duration{name:record}': ['p(95)<500'],
  },
};

export const setup = freshRun;

/** @param {{ run: string }} data */
function pay(data) {
  const transaction = { accountId: `${data.run}-hot`, type: 'INCOME', value: 1 };
  const answer = record({ ...transaction, description: 'hot account' });
  if (answer.status !== 201) return undefined;
  check(answer, { 'balance is the number of events': isWhole });
  return answer;
}

/** @param {import('k6/http').Response} answer */
function isWhole(answer) {
  return answer.json('balance') === answer.json('position');
}

export default pay;

/** @param {{ run: string }} data */
export function teardown(data) {
  // The read model too must have each event once, after all that was delivered at the same time.
  const position = pay(data)?.json('position');
  if (position === undefined) return;
  const balance = readBalance(`${data.run}-hot`, Number(position));
  check(balance, {
    'read balance is the number of events': (r) =>
      r.status === 200 && r.json('value') === position && r.json('position') === position,
  });
}
