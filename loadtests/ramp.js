// Transactions of many accounts at a rate that climbs in steps, and is held at each: the step at
// which latency leaves the floor is what the deployment bears. Arrivals do not wait for answers, so
// a slow answer does not hide the requests that would have been sent meanwhile.

import { freshRun, numberFrom, record } from './lib.js';

const RATE_MAX = numberFrom('RATE_MAX', 200);
const ACCOUNTS = 1000;
const STEPS = 4;

export const options = {
  scenarios: {
    ramp: {
      executor: 'ramping-arrival-rate',
      startRate: 1,
      timeUnit: '1s',
      preAllocatedVUs: 50,
      maxVUs: 500,
      stages: Array.from({ length: STEPS }, (_, step) => [
        { target: Math.ceil((RATE_MAX * (step + 1)) / STEPS), duration: '30s' },
        { target: Math.ceil((RATE_MAX * (step + 1)) / STEPS), duration: '60s' },
      ]).flat(),
      tags: { test: 'ramp' },
    },
  },
  thresholds: {
    checks: ['rate>0.999'],
    'http_req_failed{test:ramp}': ['rate<0.001'],
    'http_req_duration{name:record}': ['p(95)<300'],
    // A generator that lacks virtual users measures itself.
    dropped_iterations: ['count==0'],
  },
};

export const setup = freshRun;

/** @param {{ run: string }} data */
export default function (data) {
  const account = Math.floor(Math.random() * ACCOUNTS);
  record({ accountId: `${data.run}-${account}`, description: 'ramp', type: 'INCOME', value: 1 });
}
