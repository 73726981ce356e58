// Medians, and the comparison of two models that took turns; the server computes the figures of a measurement again.

import { DUET } from "./constants.mjs";

export function percentile(values, fraction) {
  const sorted = [...values].sort((a, b) => a - b);
  const place = fraction * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

export const median = (values) => percentile(values, 0.5);

// The median of samples that a timer rounded to multiples of `step`: the place of the middle sample within its step, as if the samples
// of a step were spread evenly over it. The plain median would jump by a whole step, which is 2 % of 0.2 ms where a timer steps by 5 µs.
export function medianOnGrid(values, step) {
  const sorted = [...values].sort((a, b) => a - b);
  const low = sorted[sorted.length >> 1] - step / 2;
  const below = sorted.filter((value) => value < low).length;
  const within = sorted.filter((value) => value >= low && value < low + step).length;
  return low + (step * (sorted.length / 2 - below)) / within;
}

// The latency of one model divided by that of another in a set: the median over the rounds in which both have a burst; null if there
// is none. Each argument maps rounds to latencies. By logarithms, exchanging the two models gives exactly the inverse.
export function ratioOf(own, other) {
  const logs = [...own].filter(([round]) => other.has(round)).map(([round, ns]) => Math.log(ns / other.get(round)));
  return logs.length ? Math.exp(median(logs)) : null;
}

// The geometric mean of one ratio per set, Student's 95 % interval of the logarithms, and whether the model is "slower" or "faster".
export function compare(ratios) {
  const logs = ratios.map(Math.log);
  const mean = logs.reduce((sum, value) => sum + value, 0) / logs.length;
  if (logs.length < DUET.least_sets) return { ratio: Math.exp(mean), ci95: null, verdict: "cannot tell" };
  const variance = logs.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (logs.length - 1);
  const half = DUET.t975[Math.min(logs.length - 1, DUET.t975.length) - 1] * Math.sqrt(variance / logs.length);
  const differs = Math.abs(mean) > Math.max(half, Math.log1p(DUET.noise));
  const isSame = Math.abs(mean) + half <= Math.log1p(DUET.same);
  const verdict = differs ? (mean > 0 ? "slower" : "faster") : isSame ? "no difference seen" : "cannot tell";
  return { ratio: Math.exp(mean), ci95: [Math.exp(mean - half), Math.exp(mean + half)], verdict };
}
