// Runs one k6 script under Node: node stand_in/run.js SCRIPT [ITERATIONS]
//
// This is no load generator and no k6. It shows that a script loads, sends what it means to send and
// judges the answers: two virtual users take turns for a few iterations of each scenario. Rates and
// durations of the options are left out; so are limits on latency, since a handful of requests on a
// busy machine measures nothing. All other thresholds are judged, and one on a metric or tag
// that was never recorded fails, where k6 would let it pass unnoticed.
//
// Exit status, as k6's: 0, 99 for a threshold that was crossed, 107 for an exception of the script.
// The last line of the output is a summary in JSON.

import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { dirname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

import { samplesOf, state, withTags } from './metrics.js';
import { end } from './http.js';

const VIRTUAL_USERS = 2;
const ITERATIONS_MAX = 100;
const STAND_INS = new Set(['k6', 'k6/http', 'k6/metrics']);
const THRESHOLDS_CROSSED = 99;
const SCRIPT_EXCEPTION = 107;

const [script, iterationsText = '3'] = process.argv.slice(2);
const iterations = Math.min(Number(iterationsText), ITERATIONS_MAX);
const path = resolve(script);

registerHooks({
  resolve(specifier, context, next) {
    if (!STAND_INS.has(specifier)) return next(specifier, context);
    const name = specifier.replace('k6/', '');
    return { url: new URL(`./${name}.js`, import.meta.url).href, shortCircuit: true };
  },
});

let initializing = true;
globalThis.__ENV = { ...process.env };
globalThis.__VU = 0;
globalThis.__ITER = 0;
globalThis.open = (file) => {
  if (!initializing) throw new Error('open() is for the init context only');
  return readFileSync(resolve(dirname(path), file), 'utf8');
};

/** What k6 makes of options without scenarios is one scenario that is called "default". */
function scenariosOf(options) {
  return Object.entries(options.scenarios ?? { default: { executor: 'constant-vus' } });
}

function runScenarios(module, data) {
  for (const [name, scenario] of scenariosOf(module.options)) {
    const run = module[scenario.exec ?? 'default'];
    if (typeof run !== 'function') throw new Error(`scenario ${name} has no function`);
    withTags({ ...scenario.tags, scenario: name }, () => {
      for (let turn = 0; turn < iterations * VIRTUAL_USERS; turn += 1) {
        globalThis.__VU = 1 + (turn % VIRTUAL_USERS);
        globalThis.__ITER = Math.floor(turn / VIRTUAL_USERS);
        run(data);
      }
    });
  }
}

const COMPARE = {
  '<': (a, b) => a < b,
  '<=': (a, b) => a <= b,
  '>': (a, b) => a > b,
  '>=': (a, b) => a >= b,
  '==': (a, b) => a === b,
  '===': (a, b) => a === b,
  '!=': (a, b) => a !== b,
};

/** Whether an expression holds; null for one on latency, of which only the form is judged. */
function judge(name, expression) {
  const parts = /^(rate|count|avg|min|med|max|p\([\d.]+\))\s*(<=|>=|===?|!=|<|>)\s*([\d.]+)$/;
  const match = parts.exec(expression);
  if (match === null) throw new Error(`threshold ${name}: ${expression} is not understood`);
  const [, aggregate, operator, limit] = match;
  // k6's own counter exists with no sample in it.
  const samples = samplesOf(name);
  if (samples.length === 0 && name !== 'dropped_iterations') return false;
  if (aggregate !== 'rate' && aggregate !== 'count') return null;
  const sum = samples.reduce((total, value) => total + Number(value), 0);
  const found = aggregate === 'rate' ? sum / samples.length : sum;
  return COMPARE[operator](found, Number(limit));
}

function judgeAll(thresholds) {
  const judged = {};
  for (const [name, expressions] of Object.entries(thresholds ?? {})) {
    for (const expression of expressions) judged[`${name}: ${expression}`] = judge(name, expression);
  }
  return judged;
}

let status = 0;
let thresholds = {};
try {
  const module = await import(pathToFileURL(path).href);
  initializing = false;
  // k6 carries the data from setup to the virtual users as JSON.
  const carried = JSON.stringify(module.setup?.());
  const data = () => (carried === undefined ? undefined : JSON.parse(carried));
  runScenarios(module, data());
  module.teardown?.(data());
  thresholds = judgeAll(module.options.thresholds);
  if (Object.values(thresholds).includes(false)) status = THRESHOLDS_CROSSED;
} catch (error) {
  console.error(error);
  status = SCRIPT_EXCEPTION;
} finally {
  await end();
}
const requests = samplesOf('http_req_duration').length;
console.log(JSON.stringify({ checks: state.checks, requests, thresholds }));
process.exitCode = status;
