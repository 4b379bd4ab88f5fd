// Waits until Knative has taken all pods away, then measures the first request, which starts one,
// and the second, which finds it. Only with podsMin 0 and nobody else about is the first one cold.

import { check, sleep } from 'k6';
import { Trend } from 'k6/metrics';

import { freshRun, numberFrom, readBalance, record } from './lib.js';

// Knative's window of 60 s and grace period of 30 s, and time for the pod to drain.
const IDLE_S = numberFrom('IDLE_S', 150);
const ROUNDS = numberFrom('ROUNDS', 5);

const cold = new Trend('cold_request', true);
const warm = new Trend('warm_request', true);

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: {
    zero: {
      executor: 'per-vu-iterations',
      vus: 1,
      iterations: ROUNDS,
      maxDuration: `${ROUNDS * (IDLE_S + 60)}s`,
      tags: { test: 'scale-from-zero' },
    },
  },
  thresholds: {
    checks: ['rate==1'],
    'http_req_failed{test:scale-from-zero}': ['rate==0'],
    'cold_request{function:record}': ['p(95)<10000'],
    'cold_request{function:balance}': ['p(95)<10000'],
    'warm_request{function:record}': ['p(95)<300'],
    'warm_request{function:balance}': ['p(95)<300'],
  },
};

export const setup = freshRun;

/** @param {{ run: string }} data */
export default function (data) {
  const accountId = `${data.run}-zero`;
  const transaction = { accountId, description: 'from zero', type: 'INCOME', value: 1 };
  sleep(IDLE_S);
  const first = record(transaction);
  cold.add(first.timings.duration, { function: 'record' });
  const second = record(transaction);
  warm.add(second.timings.duration, { function: 'record' });
  if (second.status !== 201) return;
  // The wait for the projector, which may be cold as well, is no part of the warm one.
  const position = Number(second.json('position'));
  const read = readBalance(accountId, position);
  cold.add(read.timings.duration, { function: 'balance' });
  const readAgain = readBalance(accountId);
  warm.add(readAgain.timings.duration, { function: 'balance' });
  check(readAgain, {
    'nothing got lost on the way up': (r) => r.status === 200 && r.json('value') === position,
  });
}
