// Makes the requests of http.js, one after the other. No answer at all is status 0, as in k6.

import { workerData } from 'node:worker_threads';

const { signal, port, timeoutMs } = workerData;

async function answerTo({ method, url, body, headers }) {
  const began = performance.now();
  try {
    const signalOfTime = AbortSignal.timeout(timeoutMs);
    const response = await fetch(url, { method, body, headers, signal: signalOfTime });
    const text = await response.text();
    const durationMs = performance.now() - began;
    return { status: response.status, headers: [...response.headers], body: text, durationMs };
  } catch (error) {
    const durationMs = performance.now() - began;
    const why = String(error.cause ?? error);
    return { status: 0, headers: [], body: null, error: why, durationMs };
  }
}

port.on('message', async (asked) => {
  port.postMessage(await answerTo(asked));
  Atomics.store(signal, 0, 1);
  Atomics.notify(signal, 0);
});
