// The requests that all scripts share: each is one call, tagged by its name, and its check.

import { check } from 'k6';
import http from 'k6/http';

export const RECORD_URL = __ENV.RECORD_URL || 'http://localhost:8080';
export const BALANCE_URL = __ENV.BALANCE_URL || 'http://localhost:8081';

/** @type {Record<string, string>} */
const AUTHORIZATION = __ENV.TOKEN ? { Authorization: `Bearer ${__ENV.TOKEN}` } : {};
const JSON_HEADERS = { 'Content-Type': 'application/json' };

// k6 opens files only while it reads the scripts, never in an iteration.
export const INCOME = JSON.parse(open('./income-transaction.json'));
export const EXPENSE = JSON.parse(open('./expense-transaction.json'));

// A failed check alone does not fail a k6 run: the threshold on `checks` does.
/** @type {NonNullable<import('k6/options').Options['thresholds']>} */
export const ALL_RIGHT = {
  checks: ['rate==1'],
  http_req_failed: ['rate==0'],
};

/** @type {import('k6/options').Options} */
export const ORIGINAL_OPTIONS = {
  vus: 10,
  duration: '60s',
  thresholds: {
    ...ALL_RIGHT,
    http_req_duration: ['p(95)<500'],
  },
};

/**
 * Record one transaction, unchecked.
 * @param {object} transaction
 * @param {Record<string, string>} [headers]
 */
export function post(transaction, headers = {}) {
  return http.post(`${RECORD_URL}/transactions`, JSON.stringify(transaction), {
    headers: { ...JSON_HEADERS, ...AUTHORIZATION, ...headers },
    responseCallback: http.expectedStatuses(201),
    tags: { name: 'record' },
  });
}

/**
 * Record one transaction.
 * @param {object} transaction
 * @param {string} [name] the check's
 */
export function record(transaction, name = 'recorded') {
  const answer = post(transaction);
  check(answer, { [`${name}: status is 201`]: (r) => r.status === 201 });
  return answer;
}

/**
 * Read what an account holds; with `minPosition`, once it has reached that event.
 * @param {string} accountId
 * @param {number} [minPosition]
 */
export function readBalance(accountId, minPosition) {
  const wanted = minPosition === undefined ? '' : `&minPosition=${minPosition}`;
  /** @type {Record<string, string>} The longest wait; k6's own is twice that, so a 503 is seen. */
  const prefer = minPosition === undefined ? {} : { Prefer: 'wait=30' };
  const url = `${BALANCE_URL}/balances?accountId=${encodeURIComponent(accountId)}${wanted}`;
  const answer = http.get(url, {
    headers: { ...AUTHORIZATION, ...prefer },
    responseCallback: http.expectedStatuses(200),
    // Without a name of its own every account would be a time series.
    tags: { name: minPosition === undefined ? 'balance' : 'balance-at-least' },
  });
  check(answer, { 'balance: status is 200': (r) => r.status === 200 });
  return answer;
}

/** Have the files' account exist and be projected: one without any event is answered by 404. */
export function openAccount() {
  const answer = record(INCOME, 'income');
  if (answer.status === 201) readBalance(INCOME.accountId, Number(answer.json('position')));
}

/** A prefix of account ids that no earlier run used, so that a run's balances are its own. */
export function freshRun() {
  return { run: `load-${Date.now().toString(36)}` };
}

/**
 * A whole number above zero from the environment.
 * @param {string} name
 * @param {number} otherwise
 */
export function numberFrom(name, otherwise) {
  const number = Number(__ENV[name] || otherwise);
  if (!Number.isInteger(number) || number < 1) throw new Error(`${name} must be a whole number`);
  return number;
}
