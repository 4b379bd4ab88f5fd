// Stands in for k6/http. Its calls return once the answer is there, as k6's do, so a worker
// makes the requests while this thread waits for it, with a limit.

import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';

import { addSample } from './metrics.js';

const REQUEST_TIMEOUT_MS = 35_000;

const signal = new Int32Array(new SharedArrayBuffer(4));
const { port1: port, port2: workerPort } = new MessageChannel();
const worker = new Worker(new URL('./http_worker.js', import.meta.url), {
  workerData: { signal, port: workerPort, timeoutMs: REQUEST_TIMEOUT_MS },
  transferList: [workerPort],
});
// It alone does not keep a finished run going.
worker.unref();

export async function end() {
  await worker.terminate();
}

/** k6 writes the names of headers as Go does: Retry-After, Etag. */
function canonical(name) {
  return name.replace(/(^|-)([a-z])/g, (whole) => whole.toUpperCase());
}

class Response {
  constructor({ status, headers, body, error, durationMs }) {
    this.status = status;
    this.headers = Object.fromEntries(headers.map(([name, text]) => [canonical(name), text]));
    this.body = body;
    this.error = error;
    this.timings = { duration: durationMs };
  }

  /** The whole body, or the member that `selector` names; more of k6's selectors nobody uses. */
  json(selector) {
    const whole = JSON.parse(this.body);
    if (selector === undefined) return whole;
    if (!/^\w+$/.test(selector)) throw new Error(`json(${selector}) is not understood here`);
    return whole[selector];
  }
}

function request(method, url, body, { headers = {}, tags = {}, responseCallback } = {}) {
  Atomics.store(signal, 0, 0);
  port.postMessage({ method, url, body, headers });
  // The worker has the same limit and answers at it; this one is for a worker that died.
  if (Atomics.wait(signal, 0, 0, REQUEST_TIMEOUT_MS + 1000) === 'timed-out') {
    throw new Error(`${method} ${url}: no answer`);
  }
  const response = new Response(receiveMessageOnPort(port).message);
  const isExpected = responseCallback ?? ((status) => status >= 200 && status < 400);
  addSample('http_req_duration', response.timings.duration, tags);
  addSample('http_req_failed', !isExpected(response.status), tags);
  if (response.error) console.error(`${method} ${url}: ${response.error}`);
  return response;
}

export default {
  get: (url, params) => request('GET', url, undefined, params),
  post: (url, body, params) => request('POST', url, body, params),
  expectedStatuses: (...statuses) => (status) => statuses.includes(status),
};
