// Stands in for k6/metrics, and holds the samples of the metrics that k6 itself keeps.

export const state = { checks: {}, samples: {}, tags: {} };

/** Have all samples that `run` adds carry `tags`. */
export function withTags(tags, run) {
  const before = state.tags;
  state.tags = { ...before, ...tags };
  try {
    return run();
  } finally {
    state.tags = before;
  }
}

export function addSample(metric, value, tags = {}) {
  (state.samples[metric] ??= []).push({ value, tags: { ...state.tags, ...tags } });
}

/** The values of a metric, or of a submetric: "name{tag:value,...}". */
export function samplesOf(name) {
  const [, metric, selector] = /^([^{]+)(?:\{(.*)\})?$/.exec(name);
  const wanted = (selector ?? '').split(',').filter(Boolean).map((pair) => pair.split(':'));
  return (state.samples[metric] ?? [])
    .filter(({ tags }) => wanted.every(([tag, value]) => tags[tag.trim()] === value.trim()))
    .map(({ value }) => value);
}

export class Trend {
  constructor(name) {
    this.name = name;
  }

  add(value, tags) {
    if (!Number.isFinite(value)) throw new Error(`${this.name}: ${value} is not a number`);
    addSample(this.name, value, tags);
  }
}
