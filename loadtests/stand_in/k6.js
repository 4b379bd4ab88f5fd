// Stands in for the module "k6": check and sleep.

import { addSample, state } from './metrics.js';

const SLEEP_MAX_MS = 10;

export function check(subject, checks) {
  let all = true;
  for (const [name, holds] of Object.entries(checks)) {
    // As in k6, an exception is the script's and not a failed check.
    const passed = Boolean(holds(subject));
    state.checks[name] ??= { passes: 0, fails: 0 };
    state.checks[name][passed ? 'passes' : 'fails'] += 1;
    addSample('checks', passed, { check: name });
    all &&= passed;
  }
  return all;
}

/** Cut short: what a script waits for does not happen here. */
export function sleep(seconds) {
  const nothing = new Int32Array(new SharedArrayBuffer(4));
  Atomics.wait(nothing, 0, 0, Math.min(seconds * 1000, SLEEP_MAX_MS));
}
