// Models that take turns: which of them have a burst in a round, in which order, and whether all of them fit into memory.

import { BURSTS, SAMPLING } from "./constants.mjs";

export const MOST_SAMPLES = 50_000;
const LEAST_SAMPLES = 72; // the fewest that bound the 95th percentile, which the page shows
const SHARE = 0.25; // of the device's memory: the system, the browser and other pages need the rest
const UNKNOWN_BYTES = 2 ** 30; // what workers may need where the browser does not report the device's memory

// Yields the order in each round: shuffled in even rounds, reversed in the odd round that follows.
export function* orders(members, seed) {
  const random = mulberry32(seed);
  for (;;) {
    const order = shuffled(members, random);
    yield order;
    yield [...order].reverse();
  }
}

function shuffled(members, random) {
  const order = [...members];
  for (let i = order.length - 1; i > 0; i--) {
    const k = Math.floor(random() * (i + 1));
    [order[i], order[k]] = [order[k], order[i]];
  }
  return order;
}

// A generator of random numbers with a seed, which JavaScript lacks.
function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The number of bursts that make `seconds`, and enough samples; `sampleMs` is the length of a sample.
export function burstsFor(sampleMs, seconds) {
  const samples = Math.max(BURSTS.least, Math.ceil((1000 * BURSTS.least_s) / sampleMs));
  const whole = (1000 * seconds) / (samples * sampleMs);
  const wanted = Math.max(whole, LEAST_SAMPLES / samples);
  return Math.ceil(Math.min(wanted, SAMPLING.most_times * whole, MOST_SAMPLES / samples));
}

// The rounds of each model: an even share of the rounds of the model with the next larger number of bursts. So any two models share as
// many rounds as the one with fewer bursts has.
export function roundsFor(bursts) {
  let rounds = Array.from({ length: Math.max(...bursts) }, (_, round) => round);
  const found = [];
  for (const i of [...bursts.keys()].sort((one, other) => bursts[other] - bursts[one])) {
    const most = rounds.length;
    rounds = rounds.filter((_, k) => (k * bursts[i]) % most < bursts[i]);
    found[i] = new Set(rounds);
  }
  return found;
}

// Why the workers of some models are not alive together; null if they are. Each worker has a copy of the engine, the model and the
// requests, the engine's compiled code, which is about as large as the engine, and the heap that it had when the model's answers were
// checked. In Chromium, four workers of a small model took 165 MB, and this estimate is 180 MB.
export function tooLarge(arms, engineBytes, deviceBytes) {
  const needed = arms.reduce((sum, arm) => sum + 2 * engineBytes + arm.model.byteLength + arm.content.byteLength + (arm.heap ?? 0), 0);
  const most = deviceBytes === null ? UNKNOWN_BYTES : SHARE * deviceBytes;
  if (arms.length < 2 || needed <= most) return null;
  const mb = (bytes) => `${Math.round(bytes / 1e6)} MB`;
  return `${arms.length} models would need ${mb(needed)} of memory together, and this page uses at most ${mb(most)}`;
}
