// One job in a fresh worker: load the engine and the model, then check it, time it in turns with other workers, soak it, or answer pictures.
// The engine fixes its number of threads when it starts, and its heap never shrinks, so that no worker is used twice.

import { BURSTS, CHECK, SOAK, WARM_UP } from "./constants.mjs";
import { typed } from "./parity.mjs";
import { median, medianOnGrid, percentile } from "./stats.mjs";
import { MOST_SAMPLES } from "./turns.mjs";

const MOST_LOOPS = 100_000;
const TICKS = 20; // a sample lasts at least this number of timer steps, so that the timer's resolution does not dominate it
const NS = 1e6; // nanoseconds per millisecond
const LONGEST = { ms: 1000, least: 30, most: 1000 }; // inferences of the longest request; a sixth as many are not timed before them

const memories = [];
let spawned = 0;

// The engine reports neither its heap nor its number of threads, so both are observed from outside.
function watch() {
  const Memory = WebAssembly.Memory;
  WebAssembly.Memory = class extends Memory {
    constructor(about) {
      super(about);
      memories.push(this);
    }
  };
  if (typeof Worker === "undefined") return;
  const Plain = Worker;
  self.Worker = class extends Plain {
    constructor(...about) {
      super(...about);
      spawned += 1;
    }
  };
}

function heapBytes() {
  return memories.length ? memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0) : null;
}

function timerStep() {
  let step = Infinity;
  let last = performance.now();
  for (let found = 0; found < 20; ) {
    const now = performance.now();
    if (now > last) {
      step = Math.min(step, now - last);
      last = now;
      found += 1;
    }
  }
  return step;
}

async function start(job) {
  watch();
  const ort = await import(`./runtime/${job.bundle}`);
  ort.env.wasm.numThreads = job.threads;
  ort.env.wasm.wasmBinary = job.engine; // downloaded once, because browsers cache nothing of a site with an untrusted certificate
  ort.env.logLevel = "error";
  const options = { executionProviders: [job.provider], graphOptimizationLevel: "all" };
  // Load a model of one operator first, so that the model's time does not include compiling the engine.
  const empty = await ort.InferenceSession.create(job.empty, { ...options, executionProviders: ["wasm"] });
  await empty.release();
  postMessage({ progress: { done: 0 } });
  const begin = performance.now();
  const session = await ort.InferenceSession.create(new Uint8Array(job.model), options);
  const loadNs = (performance.now() - begin) * NS;
  return { ort, session, loadNs };
}

function feeds(ort, job) {
  return Array.from({ length: job.requests.count }, (_, i) =>
    Object.fromEntries(
      job.requests.inputs.map((block) => {
        const size = block.bytes / job.requests.count;
        const bytes = job.content.slice(block.offset + i * size, block.offset + (i + 1) * size);
        const { data, shape } = unpadded(typed(block.dtype, bytes, 0, bytes.byteLength), block.shape, job.requests.lengths?.[i]);
        return [block.name, new ort.Tensor(block.dtype, data, shape)];
      }),
    ),
  );
}

// Removes the padding of a request (1, length), of which all are as long as the longest.
function unpadded(data, shape, length) {
  if (length === undefined) return { data, shape };
  return { data: data.subarray(0, length), shape: [...shape.slice(0, -1), length] };
}

async function check(session, requests, job) {
  const answers = job.requests.outputs.map((block) => new Uint8Array(block.bytes));
  const progress = throttled();
  for (const [i, request] of requests.entries()) {
    const got = await session.run(request);
    for (const [k, block] of job.requests.outputs.entries()) {
      const tensor = got[block.name];
      if (tensor === undefined) throw new Error(`the model has no output '${block.name}'`);
      if (tensor.type !== block.dtype) throw new Error(`output '${block.name}' is ${tensor.type}, not ${block.dtype}`);
      const data = new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
      const size = block.bytes / requests.length;
      if (data.length !== size) throw new Error(`output '${block.name}' has ${data.length} bytes, not ${size}`);
      answers[k].set(data, i * size);
    }
    progress({ done: (i + 1) / requests.length });
  }
  const outputs = Object.fromEntries(job.requests.outputs.map((block, k) => [block.name, answers[k]]));
  return { outputs, longest: await longest(session, requests, job) };
}

// Returns the length of the longest request, the median latency at it, and the number of inferences; null if all have the same length.
async function longest(session, requests, { requests: { lengths } }) {
  if (!lengths?.length) return null;
  const length = Math.max(...lengths);
  const sample = sampler(session, [requests[lengths.indexOf(length)]]);
  const latencies = [];
  const begin = performance.now();
  while (latencies.length < LONGEST.least || (latencies.length < LONGEST.most && performance.now() - begin < LONGEST.ms)) latencies.push(await sample(1));
  const timed = latencies.slice(Math.floor(latencies.length / 6));
  return { length, p50_ns: Math.max(1, median(timed)), n: timed.length };
}

// Returns a function that runs a number of inferences and returns the time of one; `startAt` chooses the next request.
function sampler(session, all) {
  const requests = all.slice(0, CHECK.timed_requests);
  let next = 0;
  const sample = async (loops) => {
    const begin = performance.now();
    for (let i = 0; i < loops; i++) await session.run(requests[next++ % requests.length]);
    return ((performance.now() - begin) * NS) / loops;
  };
  return Object.assign(sample, { startAt: (request) => (next = request) });
}

// Warms up; from then on, each message asks for a burst.
async function turns(session, requests, job) {
  const step = timerStep();
  const sample = sampler(session, requests);
  const firstNs = await sample(1);
  const { loops, latencies, steady } = await settled(sample, job.seconds * 1000, step);
  // Models that take turns start with the same request, which may be longer than others.
  self.onmessage = ({ data: { round } }) => {
    const start = () => sample.startAt(BURSTS.least * round);
    answer(() => burst(() => sample(loops), start, (step * NS) / loops));
  };
  return {
    warmup_ns: latencies, first_inference_ns: firstNs, steady, loops, timer_ns: step * NS,
    sample_ns: median(latencies.slice(-WARM_UP.window)) * loops,
  };
}

// The first samples of a burst refill the caches, which the other workers used in the meantime.
async function burst(sample, start, stepNs) {
  start();
  const lead = await series(sample, 1000 * BURSTS.lead_s, 1);
  start();
  const begin = performance.now();
  const latencies = await series(sample, 1000 * BURSTS.least_s, BURSTS.least);
  const wallNs = (performance.now() - begin) * NS;
  return { result: { lead_ns: lead, latency_ns: latencies, wall_ns: wallNs, median_ns: medianOnGrid(latencies, stepNs) } };
}

async function series(sample, lengthMs, least) {
  const latencies = [];
  const progress = throttled();
  const begin = performance.now();
  while (latencies.length < least || performance.now() - begin < lengthMs) {
    latencies.push(await sample());
    progress({});
  }
  return latencies;
}

// Warms up, and finds the number of inferences for a long enough sample. The first inferences, before the browser has compiled the
// engine's inner loops well, are ten times slower than the rest, and are no basis for that number.
async function settled(sample, lengthMs, step) {
  const enough = (ns) => Math.min(MOST_LOOPS, Math.max(1, Math.ceil((TICKS * step * NS) / ns)));
  let loops = enough(await sample(10));
  const latencies = [];
  for (;;) {
    const warmUp = await warmedUp(() => sample(loops), lengthMs);
    latencies.push(...warmUp.latencies);
    // The median, because a few inferences that other work interrupted would make samples too short for the timer. It may be 0.
    const needed = Math.min(16 * loops, enough(median(warmUp.latencies.slice(-WARM_UP.window))));
    if (needed <= 1.25 * loops) return { loops, latencies: latencies.slice(-MOST_SAMPLES), steady: warmUp.steady };
    loops = needed;
  }
}

// Warms up until the last two windows agree, as on the other targets.
async function warmedUp(sample, lengthMs) {
  const latencies = [];
  const begin = performance.now();
  const shortest = Math.min(WARM_UP.least_s * 1000, WARM_UP.least_share * lengthMs);
  const longest = Math.min(WARM_UP.most_s * 1000, WARM_UP.most_times * lengthMs);
  for (;;) {
    latencies.push(await sample());
    const elapsed = performance.now() - begin;
    const whole = latencies.length >= 2 * WARM_UP.window && latencies.length % WARM_UP.window === 0;
    if (whole && elapsed >= shortest && isSteady(latencies)) return { latencies, steady: true };
    if (elapsed >= longest || latencies.length >= MOST_SAMPLES) return { latencies, steady: false };
  }
}

function isSteady(latencies) {
  const { window, agreement } = WARM_UP;
  const last = median(latencies.slice(-window));
  const before = median(latencies.slice(-2 * window, -window));
  return Math.abs(last - before) <= agreement * before;
}

async function soak(session, requests, job) {
  const binMs = 1000 * Math.max(SOAK.bin_s, job.seconds / SOAK.most_bins);
  const found = { time_ns: [], n: [], p50_ns: [], p95_ns: [] };
  const sample = sampler(session, requests);
  const { loops } = await settled(sample, SOAK.warm_up_s * 1000, timerStep());
  const begin = performance.now();
  let elapsed = 0;
  while (elapsed < job.seconds * 1000) {
    const binBegin = performance.now();
    const latencies = [];
    while (performance.now() - binBegin < binMs) latencies.push(await sample(loops));
    found.time_ns.push((binBegin - begin) * NS);
    found.n.push(latencies.length * loops);
    found.p50_ns.push(percentile(latencies, 0.5));
    found.p95_ns.push(percentile(latencies, 0.95));
    elapsed = performance.now() - begin;
    postMessage({ progress: { done: Math.min(1, elapsed / (job.seconds * 1000)), latest: found.p50_ns.at(-1) } });
  }
  return { ...found, seconds: elapsed / 1000 };
}

function throttled() {
  let last = performance.now();
  return (progress) => {
    if (performance.now() - last < 250) return;
    last = performance.now();
    postMessage({ progress });
  };
}

// From now on, each message is a picture or { texts }, which gets its answer.
async function live(_session, _requests, job, engine) {
  const { answerPicture, answerTexts } = await import("./frames.mjs");
  if (job.contract.text) {
    const [library, { tokenizerOf }] = await Promise.all([import("./runtime/tokenizers.min.mjs"), import("./tokens.mjs")]);
    const tokenize = tokenizerOf(library, JSON.parse(job.tokenizer), job.contract.text);
    self.onmessage = ({ data: { texts } }) => answer(() => answerTexts(engine, job.contract, tokenize, texts));
    return;
  }
  self.onmessage = ({ data: picture }) => answer(() => answerPicture(engine, job.contract, picture));
}

const TASKS = { check, turns, soak, live };

async function run(job) {
  const { ort, session, loadNs } = await start(job);
  const result = await TASKS[job.task](session, feeds(ort, job), job, { ort, session });
  return { result, load_ns: loadNs, threads: job.provider === "wasm" ? 1 + spawned : 1 };
}

async function answer(work) {
  try {
    postMessage({ ...(await work()), heap_bytes: heapBytes() });
  } catch (error) {
    postMessage({ error: error?.message ?? String(error) });
  }
}

self.onmessage = ({ data: job }) => answer(() => run(job));
