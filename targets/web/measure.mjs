// The order of work: download, check each model once, time all of them in turns in fresh workers, soak, and send.

import { randomId } from "./device.mjs";
import { engineFor, fetchBytes, RUNTIMES } from "./downloads.mjs";
import { Fresh, Stalled } from "./fresh.mjs";
import { parity } from "./parity.mjs";
import { ratioOf } from "./stats.mjs";
import { burstsFor, MOST_SAMPLES, orders, roundsFor, tooLarge } from "./turns.mjs";

// A worker could not be started beside others.
class NotTogether extends Error {}

export class Measuring {
  #hooks;
  #plan;
  #workers = new Set();
  #stopped = false;
  #downloads = new AbortController();
  #hidden = document.visibilityState === "hidden";

  // hooks: stage(text), note(text), progress(steps, latest), step(), checked(arm), samples(arm), failed(arm, text),
  // done(arm, answer)
  constructor(plan, hooks) {
    this.#plan = plan;
    this.#hooks = hooks;
  }

  stop() {
    this.#stopped = true;
    this.#downloads.abort(new Error("stopped"));
    for (const worker of this.#workers) worker.end(new Error("stopped"));
  }

  async run() {
    const watch = () => (this.#hidden ||= document.visibilityState === "hidden");
    document.addEventListener("visibilitychange", watch);
    const lock = await keepAwake();
    try {
      await this.#download();
      await this.#each("checks", (arm) => this.#check(arm));
      await this.#time();
      if (this.#plan.soakSeconds > 0) await this.#each("sustained run of", (arm) => this.#soak(arm));
      await this.#each("sends", (arm) => this.#send(arm));
    } finally {
      document.removeEventListener("visibilitychange", watch);
      await lock?.release().catch(() => {});
    }
  }

  // A model that fails is left out of the following steps; the others continue.
  async #each(stage, work) {
    for (const arm of living(this.#plan.arms)) {
      if (this.#stopped) throw new Error("stopped");
      this.#hooks.stage(`${stage} ${arm.title}`);
      try {
        await work(arm);
      } catch (error) {
        this.#fail(arm, error);
      }
      this.#hooks.step();
    }
  }

  #fail(arm, error) {
    if (this.#stopped) throw error;
    arm.failed = error.message;
    this.#hooks.failed(arm, error.message);
  }

  async #download() {
    const { signal } = this.#downloads;
    this.#hooks.stage("downloads the engine");
    Object.assign(this, await engineFor(this.#plan.arms[0].provider, signal, (text) => this.#hooks.note(text)));
    const models = new Map();
    for (const arm of this.#plan.arms) {
      const { key, bytes } = arm.about;
      if (!models.has(key)) {
        const report = (length) => this.#hooks.note(`downloads ${key}, ${Math.round((100 * length) / bytes)} %`);
        const model = await fetchBytes(`models/${key}.onnx`, signal, report);
        models.set(key, { model, content: await fetchBytes(`requests/${key}.bin`, signal) });
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

  // Does some work in a fresh worker, and once more in another worker if the first stops responding: on a busy machine a job of
  // Firefox with two threads once gave no result, for a reason that is not known.
  async #work(arm, more) {
    const once = () => this.#inWorker((worker) => worker.ask(this.#job(arm, more), this.#shown));
    try {
      return await once();
    } catch (error) {
      if (!(error instanceof Stalled) || this.#stopped) throw error;
      this.#hooks.note(`a worker did not respond; trying ${arm.title} in a new worker`);
      return await once();
    }
  }

  #shown = ({ done, latest }) => this.#hooks.progress(done, latest);

  async #inWorker(use) {
    const worker = this.#start();
    try {
      return await use(worker);
    } finally {
      this.#end(worker);
    }
  }

  #start() {
    const worker = new Fresh();
    this.#workers.add(worker);
    return worker;
  }

  #end(worker) {
    worker.end();
    this.#workers.delete(worker);
  }

  async #check(arm) {
    const { result, threads, heap_bytes } = await this.#work(arm, { task: "check" });
    if (threads !== arm.threads) {
      throw new Error(`the browser ran ${threads} threads, but ${arm.threads} were requested`);
    }
    arm.heap = heap_bytes;
    arm.outputs = result.outputs;
    arm.longest = result.longest;
    arm.parity = parity(arm.about, arm.content, result.outputs);
    this.#hooks.checked(arm);
  }

  // Times all models in turns; one after another if they do not fit into memory together.
  async #time() {
    const arms = living(this.#plan.arms);
    const duet = randomId();
    for (const arm of arms) arm.duet = duet;
    let reason = tooLarge(arms, this.engine.byteLength, this.#plan.about.memory_bytes);
    if (reason === null) {
      try {
        return await this.#sets([arms]);
      } catch (error) {
        if (!(error instanceof NotTogether)) throw error;
        reason = error.message;
      }
    }
    for (const arm of living(arms)) Object.assign(arm, { alone: reason, duet: randomId(), processes: [], turns: [] });
    await this.#sets(living(arms).map((arm) => [arm]));
  }

  async #sets(groups) {
    for (let set = 0; set < this.#plan.processes; set++) {
      for (const group of groups) {
        await this.#set(group, set);
        for (const arm of living(group)) this.#hooks.samples(arm);
        for (const _ of group) this.#hooks.step();
      }
    }
  }

  // Repeats a set in which a worker stops responding; a model whose worker does so twice fails.
  async #set(group, set) {
    const stalled = new Set();
    while (living(group).length) {
      try {
        return await this.#attempt(living(group), set);
      } catch (error) {
        if (!(error instanceof Stalled) || this.#stopped) throw error;
        if (stalled.has(error.arm)) this.#fail(error.arm, error);
        stalled.add(error.arm);
        this.#hooks.note(`a worker did not respond; measuring set ${set + 1} again`);
      }
    }
  }

  // One set: a fresh worker for each model, all of them loaded and warmed up before they take turns.
  async #attempt(group, set) {
    const members = [];
    const seed = parseInt(group[0].duet.slice(0, 8), 16) + set;
    const [loading] = orders(group, seed); // also shuffled: no model is the first one loaded in all sets
    const words = `set ${set + 1} of ${this.#plan.processes}:`;
    try {
      for (const arm of loading) {
        if (this.#stopped) throw new Error("stopped");
        this.#hooks.stage(`${words} warms up ${arm.title}`);
        const member = { arm, worker: null, latencies: [], leads: [], bursts: [], turns: new Map(), wallNs: 0 };
        members.push(member);
        await this.#warmUp(member, group.length > 1);
        this.#hooks.progress(members.length / 2);
      }
      this.#hooks.stage(`${words} ${living(group).length > 1 ? `${living(group).length} models in turns` : group[0].title}`);
      await this.#turns(members.filter((member) => !member.arm.failed), seed);
    } finally {
      for (const { worker } of members) if (worker) this.#end(worker);
    }
    for (const member of members.filter(({ arm }) => !arm.failed)) keep(member);
  }

  async #warmUp(member, together) {
    const { arm } = member;
    try {
      member.worker = this.#start();
      const { result, ...about } = await member.worker.ask(this.#job(arm, { task: "turns", seconds: this.#plan.seconds }));
      const { sample_ns, ...process } = result;
      Object.assign(member, { ...about, process, needed: burstsFor(sample_ns / 1e6, this.#plan.seconds) });
    } catch (error) {
      if (this.#stopped) throw error;
      if (together) throw new NotTogether(`${arm.title} did not start beside the other models: ${error.message}`);
      if (error instanceof Stalled) throw Object.assign(error, { arm });
      this.#fail(arm, error);
    }
  }

  async #turns(members, seed) {
    if (!members.length) return;
    for (const [i, rounds] of roundsFor(members.map((member) => member.needed)).entries()) members[i].rounds = rounds;
    const most = Math.max(...members.map((member) => member.needed));
    const order = orders(members, seed);
    for (let round = 0; round < most; round++) {
      for (const member of order.next().value) {
        if (this.#stopped) throw new Error("stopped");
        const { arm, latencies, rounds } = member;
        if (!arm.failed && latencies.length < MOST_SAMPLES && rounds.has(round)) await this.#burst(member, round);
      }
      this.#hooks.progress((members.length * (1 + round / most)) / 2);
    }
  }

  async #burst(member, round) {
    try {
      const { result, heap_bytes } = await member.worker.ask({ round });
      member.latencies.push(...result.latency_ns);
      member.leads.push(...result.lead_ns);
      member.bursts.push({ round, n: result.latency_ns.length, lead_n: result.lead_ns.length });
      member.turns.set(round, result.median_ns);
      member.wallNs += result.wall_ns;
      member.heap_bytes = heap_bytes;
    } catch (error) {
      if (error instanceof Stalled) throw Object.assign(error, { arm: member.arm });
      this.#fail(member.arm, error);
    }
  }

  async #soak(arm) {
    arm.soak = (await this.#work(arm, { task: "soak", seconds: this.#plan.soakSeconds })).result;
  }

  async #send(arm) {
    const about = this.#plan.about;
    const body = {
      schema: "edgedistill.browser/2",
      model: arm.about.key,
      threads: arm.threads,
      device: this.#plan.device,
      browser: {
        provider: arm.provider, user_agent: navigator.userAgent, secure: about.secure, isolated: about.isolated,
        shared_memory: about.shared_memory, timer_ns: arm.timer, loops: Math.max(...arm.processes.map((one) => one.loops)),
        heap_bytes: arm.heap ?? null, gpu: arm.provider === "webgpu" ? about.gpu : null, hidden: this.#hidden,
      },
      processes: arm.processes,
      duet: { id: arm.duet, ratios: this.#ratios(arm) },
      alone: arm.alone ?? null,
      outputs: Object.fromEntries(Object.entries(arm.outputs).map(([name, bytes]) => [name, base64(bytes)])),
      soak: arm.soak ?? null,
      longest: arm.longest,
    };
    const answer = await send(JSON.stringify(body));
    if (!answer.ok) throw new Error(`the server did not keep the measurement: ${(await answer.text()).trim() || answer.status}`);
    this.#hooks.done(arm, await answer.json());
  }

  #ratios(arm) {
    const others = living(this.#plan.arms).filter((other) => other !== arm && other.duet === arm.duet);
    return Object.fromEntries(others.map((other) => [nameOf(other), ratios(arm, other)]));
  }
}

// Sends a measurement; a server that has too many uploads waiting, or a full disk (503), is asked again, six times in about a minute.
async function send(body) {
  for (let wait_s = 1; ; wait_s *= 2) {
    const answer = await fetch("api/measurement", { method: "POST", body });
    if (answer.status !== 503 || wait_s > 32) return answer;
    await new Promise((resume) => setTimeout(resume, 1000 * wait_s));
  }
}

const living = (arms) => arms.filter((arm) => !arm.failed);

export const nameOf = (arm) => `${arm.about.key}-${arm.provider}-${arm.threads}t`;

// The latency of a model divided by that of another, in each set.
export function ratios(arm, other) {
  return arm.turns.map((turns, set) => ratioOf(turns, other.turns[set]));
}

function keep({ arm, process, load_ns, threads, heap_bytes, latencies, leads, bursts, turns, wallNs }) {
  const { timer_ns, ...more } = process;
  arm.timer = Math.min(arm.timer ?? Infinity, timer_ns);
  arm.heap = heap_bytes === null ? arm.heap : Math.max(arm.heap ?? 0, heap_bytes);
  arm.processes.push({ ...more, latency_ns: latencies, lead_ns: leads, bursts, wall_ns: wallNs, load_ns, threads });
  arm.turns.push(turns);
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
