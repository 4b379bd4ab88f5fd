// A calm rate, twenty times it within five seconds, and calm again. While pods are started requests
// may be sent away, but only by a 503 with Retry-After; what is calm afterwards is quick again.

import { check } from 'k6';

import { freshRun, numberFrom, post } from './lib.js';

const RATE_CALM = numberFrom('RATE_CALM', 10);
const RATE_SPIKE = RATE_CALM * 20;

export const options = {
  scenarios: {
    spike: {
      executor: 'ramping-arrival-rate',
      startRate: RATE_CALM,
      timeUnit: '1s',
      preAllocatedVUs: 100,
      maxVUs: 1000,
      stages: [
        { target: RATE_CALM, duration: '30s' },
        { target: RATE_SPIKE, duration: '5s' },
        { target: RATE_SPIKE, duration: '60s' },
        { target: RATE_CALM, duration: '5s' },
      ],
      tags: { phase: 'spike' },
    },
    after: {
      executor: 'constant-arrival-rate',
      // A little after the spike, so that what it left waiting is gone.
      startTime: '110s',
      rate: RATE_CALM,
      timeUnit: '1s',
      duration: '60s',
      preAllocatedVUs: 20,
      tags: { phase: 'after' },
    },
  },
  thresholds: {
    // A wrong answer is never right, a refusal in the spike is: so checks and failures differ.
    checks: ['rate==1'],
    'http_req_failed{phase:spike}': ['rate<0.05'],
    'http_req_failed{phase:after}': ['rate==0'],
    'http_req_duration{phase:spike}': ['p(95)<2000'],
    'http_req_duration{phase:after}': ['p(95)<300'],
  },
};

export const setup = freshRun;

/** @param {{ run: string }} data */
export default function (data) {
  const accountId = `${data.run}-${__VU}`;
  const answer = post({ accountId, description: 'spike', type: 'INCOME', value: 1 });
  check(answer, {
    'recorded, or sent away with Retry-After': (r) =>
      r.status === 201 || (r.status === 503 && Number(r.headers['Retry-After']) >= 1),
  });
}
