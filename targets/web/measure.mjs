// The order of work: download, check each model once, time all in turn in fresh workers, soak, and send.

import { parity } from "./parity.mjs";

const RUNTIMES = {
  wasm: { bundle: "ort.wasm.bundle.min.mjs", engine: "ort-wasm-simd-threaded.wasm" },
  webgpu: { bundle: "ort.webgpu.bundle.min.mjs", engine: "ort-wasm-simd-threaded.asyncify.wasm" },
};
const STALLED_MS = 120_000; // a slow phone needs long to compile a large model, without any message

class Stalled extends Error {}

export async function fetchBytes(url, onBytes) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: the server answered ${answer.status}`);
  const reader = answer.body.getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
    onBytes?.(length);
  }
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole.buffer;
}

export class Measuring {
  #hooks;
  #plan;
  #worker = null;
  #reject = null;
  #stopped = false;
  #hidden = document.visibilityState === "hidden";

  // hooks: stage(text), note(text), progress(arm, about), step(), checked(arm), samples(arm), failed(arm, text), done(arm, answer)
  constructor(plan, hooks) {
    this.#plan = plan;
    this.#hooks = hooks;
  }

  stop() {
    this.#stopped = true;
    this.#worker?.terminate();
    this.#reject?.(new Error("stopped"));
  }

  async run() {
    const watch = () => (this.#hidden ||= document.visibilityState === "hidden");
    document.addEventListener("visibilitychange", watch);
    const lock = await keepAwake();
    try {
      await this.#download();
      await this.#each("checks", (arm) => this.#check(arm));
      for (let round = 1; round <= this.#plan.processes; round++) {
        await this.#each(`timed in worker ${round} of ${this.#plan.processes}:`, (arm) => this.#time(arm));
      }
      if (this.#plan.soakSeconds > 0) await this.#each("sustained run of", (arm) => this.#soak(arm));
      await this.#each("sends", (arm) => this.#send(arm));
    } finally {
      document.removeEventListener("visibilitychange", watch);
      await lock?.release().catch(() => {});
    }
  }

  // A model that fails is left out of the following steps; the others continue.
  async #each(stage, work) {
    for (const arm of this.#plan.arms) {
      if (arm.failed) continue;
      if (this.#stopped) throw new Error("stopped");
      this.#hooks.stage(`${stage} ${arm.title}`);
      try {
        await work(arm);
      } catch (error) {
        if (this.#stopped) throw error;
        arm.failed = error.message;
        this.#hooks.failed(arm, error.message);
      }
      this.#hooks.step();
    }
  }

  async #download() {
    const runtime = RUNTIMES[this.#plan.arms[0].provider];
    this.#hooks.stage("downloads the engine");
    const report = (length) => this.#hooks.note(`downloads the engine, ${(length / 1e6).toFixed(1)} MB`);
    this.engine = await fetchBytes(`runtime/${runtime.engine}`, report);
    this.empty = new Uint8Array(await fetchBytes("null.onnx"));
    const models = new Map();
    for (const arm of this.#plan.arms) {
      const { key, bytes } = arm.about;
      if (!models.has(key)) {
        const report = (length) => this.#hooks.note(`downloads ${key}, ${Math.round((100 * length) / bytes)} %`);
        const model = await fetchBytes(`models/${key}.onnx`, report);
        models.set(key, { model, content: await fetchBytes(`requests/${key}.bin`) });
      }
      Object.assign(arm, models.get(key));
    }
  }

  #job(arm, more) {
    const { model, content, threads, provider } = arm;
    const { requests } = arm.about;
    const { bundle } = RUNTIMES[provider];
    return { model, content, requests, threads, provider, bundle, empty: this.empty, engine: this.engine, ...more };
  }

  // Runs a job in a fresh worker, and once more in another worker if the first stops responding: on a busy machine a job of
  // Firefox with two threads once gave no result, for a reason that is not known.
  async #work(arm, more) {
    try {
      return await this.#once(arm, more);
    } catch (error) {
      if (!(error instanceof Stalled) || this.#stopped) throw error;
      this.#hooks.note(`a worker did not respond for ${STALLED_MS / 1000} s; trying ${arm.title} in another one`);
      return await this.#once(arm, more);
    }
  }

  // A worker without a message for two minutes has failed without an error event.
  #once(arm, more) {
    const job = this.#job(arm, more);
    this.#worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
    const worker = this.#worker;
    let timer;
    return new Promise((resolve, reject) => {
      this.#reject = reject;
      const wait = () => {
        clearTimeout(timer);
        const error = new Stalled(`two workers did not respond for ${STALLED_MS / 1000} s; the device may be out of memory`);
        timer = setTimeout(() => reject(error), STALLED_MS);
      };
      wait();
      worker.onerror = (event) => reject(new Error(event.message || "the worker could not be started"));
      worker.onmessage = ({ data }) => {
        wait();
        if (data.progress) this.#hooks.progress(arm, data.progress);
        else if (data.error) reject(new Error(data.error));
        else resolve(data);
      };
      worker.postMessage(job);
    }).finally(() => {
      clearTimeout(timer);
      worker.terminate();
    });
  }

  async #check(arm) {
    const { result, threads, heap_bytes } = await this.#work(arm, { task: "check" });
    if (threads !== arm.threads) {
      throw new Error(`the browser ran ${threads} threads, but ${arm.threads} were requested`);
    }
    arm.heap = heap_bytes;
    arm.outputs = result;
    arm.parity = parity(arm.about, arm.content, result);
    this.#hooks.checked(arm);
  }

  async #time(arm) {
    const { result, ...about } = await this.#work(arm, { task: "time", seconds: this.#plan.seconds });
    const { timer_ns, ...process } = result;
    arm.timer = Math.min(arm.timer ?? Infinity, timer_ns);
    arm.heap = about.heap_bytes === null ? arm.heap : Math.max(arm.heap ?? 0, about.heap_bytes);
    arm.processes.push({ ...process, load_ns: about.load_ns, threads: about.threads });
    this.#hooks.samples(arm);
  }

  async #soak(arm) {
    arm.soak = (await this.#work(arm, { task: "soak", seconds: this.#plan.soakSeconds })).result;
  }

  async #send(arm) {
    const about = this.#plan.about;
    const body = {
      schema: "edgedistill.browser/1",
      model: arm.about.key,
      threads: arm.threads,
      device: this.#plan.device,
      browser: {
        provider: arm.provider, user_agent: navigator.userAgent, secure: about.secure, isolated: about.isolated,
        shared_memory: about.shared_memory, timer_ns: arm.timer, loops: Math.max(...arm.processes.map((one) => one.loops)),
        heap_bytes: arm.heap ?? null, gpu: arm.provider === "webgpu" ? about.gpu : null, hidden: this.#hidden,
      },
      processes: arm.processes,
      outputs: Object.fromEntries(Object.entries(arm.outputs).map(([name, bytes]) => [name, base64(bytes)])),
      soak: arm.soak ?? null,
    };
    const answer = await fetch("api/measurement", { method: "POST", body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`the server refused the measurement: ${(await answer.text()).trim() || answer.status}`);
    this.#hooks.done(arm, await answer.json());
  }
}

// Keep the screen on, because browsers slow hidden pages down. Not every browser has this function.
async function keepAwake() {
  try {
    return await navigator.wakeLock.request("screen");
  } catch {
    return null;
  }
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
