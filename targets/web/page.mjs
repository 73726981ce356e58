// The page: the form, the progress, and the results of this device and of other devices.

import { DUET } from "./constants.mjs";
import { describe, deviceId, hasMeasured, noteMeasured, savedName, saveName, suggestedName } from "./device.mjs";
import { Measuring, nameOf, ratios } from "./measure.mjs";
import { plot, short } from "./plot.mjs";
import { compare, median } from "./stats.mjs";
import { offerTrying, stopTrying } from "./try.mjs";

const byId = (id) => document.getElementById(id);
const id = deviceId();
let run;
let about;
let measuring = null;
let lastTold = 0;
let lastShown = 0;

function node(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function trouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = text === "";
}

async function begin() {
  const answer = await fetch("api/run");
  if (!answer.ok) throw new Error(`the server answered ${answer.status}; open the printed link again`);
  [run, about] = [await answer.json(), await describe()];
  byId("run").textContent = `Run “${run.run}”, with ${run.runtime} in ${about.browser}`;
  byId("name").value = savedName() ?? suggestedName(about);
  showModels();
  showThreads();
  showProviders();
  showFacts();
  offerTrying(run, placesToTry());
  byId("form").hidden = false;
  byId("form").addEventListener("change", estimate);
  estimate();
  follow();
}

function showModels() {
  for (const model of run.models) {
    const size = model.bytes < 1e6 ? `${Math.ceil(model.bytes / 1000)} kB` : `${(model.bytes / 1e6).toFixed(1)} MB`;
    // Speedups on this device are against the teacher, so a device that has not measured it yet measures it too.
    const checked = model.name === "student" || !hasMeasured(model.sha256);
    const box = node("input", { type: "checkbox", name: "model", value: model.key, checked });
    const note = model.name === "teacher" ? `${size}, the baseline of speedups` : size;
    byId("models").append(node("label", {}, box, node("span", {}, model.title, " ", node("span", { className: "note" }, note))));
  }
}

function canThread() {
  return about.isolated && about.shared_memory;
}

function threadCounts() {
  return [1, 2, 4, 8].filter((count) => count <= (canThread() ? about.cores : 1));
}

const threadsIn = (count) => `${count} thread${count > 1 ? "s" : ""}`;

// Where a model can be tried: first with up to four threads, as most phones have as many fast cores.
function placesToTry() {
  const counts = threadCounts();
  const first = Math.min(4, counts.at(-1));
  const sorted = [first, ...counts.filter((count) => count !== first)];
  const places = sorted.map((threads) => ({ title: `CPU, ${threadsIn(threads)}`, provider: "wasm", threads }));
  return about.gpu === null ? places : [...places, { title: "GPU (WebGPU)", provider: "webgpu", threads: 1 }];
}

function showThreads() {
  const counts = threadCounts();
  for (const count of counts) {
    const box = node("input", { type: "checkbox", name: "threads", value: count, checked: count === 1 || count === Math.min(4, counts.at(-1)) });
    byId("threads").append(node("label", {}, box, String(count)));
  }
  const note = byId("threads-note");
  note.hidden = canThread();
  if (!about.secure) note.textContent = "One thread only: this page was loaded over plain HTTP. The HTTPS link gives threads, WebGPU and a finer timer.";
  else if (!about.isolated) note.textContent = "One thread only: this browser did not isolate the page.";
  else note.textContent = "One thread only: this browser gives pages no shared memory.";
}

function showProviders() {
  byId("providers").hidden = about.gpu === null;
  byId("gpu").textContent = `GPU: ${about.gpu}. The GPU needs a further download of 6.6 MB.`;
  byId("providers").addEventListener("change", () => {
    for (const box of document.getElementsByName("threads")) box.disabled = chosen("provider")[0] === "webgpu";
  });
}

function showFacts() {
  const yes = (value) => (value ? "yes" : "no");
  const facts = {
    Browser: navigator.userAgent, System: about.platform, Cores: about.cores, "Secure context": yes(about.secure),
    Isolated: yes(about.isolated), "Shared memory": yes(about.shared_memory), WebGPU: about.gpu ?? "none",
    Energy: "a browser does not report the power of the device",
  };
  for (const [key, value] of Object.entries(facts)) byId("facts").append(node("dt", {}, key), node("dd", {}, String(value)));
}

function chosen(name) {
  return [...document.getElementsByName(name)].filter((box) => box.checked && !box.disabled).map((box) => box.value);
}

function plan() {
  const provider = chosen("provider")[0];
  const threads = provider === "webgpu" ? [1] : chosen("threads").map(Number);
  const models = run.models.filter((model) => chosen("model").includes(model.key));
  const [processes, seconds] = byId("effort").value.split("x").map(Number);
  const arms = models.flatMap((model) => threads.map((count) => ({
    about: model, threads: count, provider, processes: [], turns: [],
    title: `${model.title}, ${provider === "webgpu" ? "GPU" : threadsIn(count)}`,
  })));
  const device = {
    id, name: byId("name").value.trim(), platform: about.platform, arch: about.arch, browser: about.browser,
    cores: about.cores, memory_bytes: about.memory_bytes,
  };
  return { arms, processes, seconds, soakSeconds: Number(byId("soak").value), device, about };
}

function estimate() {
  const { arms, processes, seconds, soakSeconds } = plan();
  const whole = arms.length * (processes * (seconds + 1.2) + soakSeconds + 2);
  byId("estimate").textContent = arms.length ? `About ${whole < 90 ? `${Math.round(whole)} seconds` : `${Math.round(whole / 60)} minutes`}.` : "";
  byId("start").disabled = false;
}

async function start(event) {
  event.preventDefault();
  const made = plan();
  if (!made.device.name) return trouble("Give this device a name.");
  if (!made.arms.length) return trouble("Choose at least one model and one number of threads.");
  trouble("");
  saveName(made.device.name);
  stopTrying(); // the camera and its model would slow down what is measured
  byId("try").hidden = true;
  byId("form").hidden = true;
  byId("cards").replaceChildren();
  byId("comparisons").hidden = true;
  byId("results").hidden = true;
  byId("working").hidden = false;
  byId("working-title").focus();
  measuring = new Measuring(made, hooks(made));
  try {
    await measuring.run();
    finish(made);
  } catch (error) {
    trouble(error.message === "stopped" ? "Stopped. Results that were not sent are lost." : error.message);
    say("Stopped");
  } finally {
    measuring = null;
    tell("done", 1); // also if nothing was sent: others see that this device does not measure any more
    byId("working").hidden = true;
    byId("form").hidden = false;
    byId("try").hidden = false;
    byId("start").textContent = "Measure again";
    document.body.dataset.state = "done";
  }
}

function hooks(made) {
  const steps = made.arms.length * (made.processes + 2 + (made.soakSeconds > 0));
  let done = 0;
  let stage = "";
  const share = (fraction) => Math.min(1, (done + fraction) / steps); // models that are measured again need more steps
  const show = (fraction) => (byId("progress").value = share(fraction));
  return {
    stage(text) {
      stage = text;
      byId("stage").textContent = text;
      say(text);
      tell(text, share(0));
    },
    note(text) {
      byId("stage").textContent = text;
    },
    progress(fraction, latest) {
      if (performance.now() - lastShown < 250) return; // drawing must not slow the models down
      lastShown = performance.now();
      show(fraction);
      byId("stage").textContent = latest === undefined ? stage : `${stage}, ${short(latest / 1e6)} ms`;
      if (performance.now() - lastTold > 1000) tell(stage, share(fraction));
    },
    step() {
      done += 1;
      show(0);
    },
    checked: (arm) => card(arm),
    samples: (arm) => card(arm),
    failed: (arm, text) => card(arm, text),
    done(arm, answer) {
      noteMeasured(arm.about.sha256);
      card(arm, null, answer);
    },
  };
}

function say(text) {
  byId("said").textContent = text;
}

async function tell(text, fraction) {
  lastTold = performance.now();
  const body = JSON.stringify({ device: id, name: byId("name").value.trim().slice(0, 60), text: text.slice(0, 120), fraction });
  await fetch("api/progress", { method: "POST", body }).catch(() => {}); // only one line of progress is lost
}

function card(arm, failure = null, answer = null) {
  byId("results").hidden = false;
  const made = node("article", { className: "card" }, node("h3", {}, arm.title));
  made.dataset.key = `${arm.about.key}-${arm.threads}`;
  if (arm.processes.length) {
    const samples = arm.processes.flatMap((one) => one.latency_ns);
    const p50 = answer ? answer.latency_ns.p50 : median(samples);
    const undisturbed = answer?.latency_ns.undisturbed;
    made.append(node("p", { className: "figure" }, `${short((undisturbed?.p50 ?? p50) / 1e6)} ms`));
    if (undisturbed) made.append(node("p", {}, `undisturbed ${Math.round(100 * undisturbed.share)} % of the time; ${short(p50 / 1e6)} ms as measured`));
    made.append(node("p", { className: "note" }, figures(arm, samples, answer)));
  }
  made.append(agreement(arm, answer));
  if (failure) made.append(node("p", { className: "bad" }, failure));
  if (arm.processes.length) {
    made.append(plot(arm.processes, `${arm.title}: latency of each sample in ${arm.processes.length} workers, median ${short(median(arm.processes.flatMap((one) => one.latency_ns)) / 1e6)} ms`, byId("cards").clientWidth - 32));
  }
  if (answer) made.dataset.state = "sent";
  const old = byId("cards").querySelector(`[data-key="${made.dataset.key}"]`);
  if (old) old.replaceWith(made);
  else byId("cards").append(made);
}

function figures(arm, samples, answer) {
  const parts = [`median of ${samples.length} samples`];
  if (answer?.latency_ns.p95) parts.push(`p95 ${short(answer.latency_ns.p95 / 1e6)} ms`);
  parts.push(`timer ${short(arm.timer / 1000)} µs`);
  if (arm.processes[0].loops > 1) parts.push(`${arm.processes[0].loops} inferences a sample`);
  if (arm.heap) parts.push(`heap ${Math.round(arm.heap / 2 ** 20)} MiB`);
  return parts.join(" · ");
}

function agreement(arm, answer) {
  const parity = answer?.parity ?? arm.parity;
  if (!parity) return "";
  const most = `the largest difference is ${parity.max_abs_diff.toPrecision(2)}`;
  if (parity.agreement === null) return node("p", { className: "note" }, `Compared with the recorded answers: ${most}`);
  const holds = answer ? answer.holds : parity.agreement >= arm.about.min_agreement;
  const words = `Answers ${holds ? "agree" : "do not agree"} with the recorded ones: ${(100 * parity.agreement).toFixed(1)} %; ${most}`;
  return node("p", { className: holds ? "good" : "bad" }, `${words}${answer ? "; sent" : ""}`);
}

function finish(made) {
  byId("results-title").focus();
  say("Done");
  const arms = made.arms.filter((arm) => arm.processes.length && !arm.failed);
  byId("ratios").replaceChildren(...arms.slice(1).map((arm) => comparison(arm, reference(arm, arms))));
  const alone = arms.find((arm) => arm.alone)?.alone;
  byId("alone").textContent = alone ? `The models were measured one after another, which gives the ratios no interval: ${alone}.` : "";
  byId("comparisons").hidden = arms.length < 2;
}

// Returns the first model with as many threads; for that model itself, the first of all.
function reference(arm, arms) {
  const first = arms.find((one) => one.threads === arm.threads);
  return first === arm ? arms[0] : first;
}

function comparison(arm, other) {
  const found = arm.alone ? { ratio: p50(arm) / p50(other), ci95: null, verdict: "cannot tell" } : compare(ratios(arm, other));
  const item = node("li", {}, sentence(arm.title, other.title, found));
  Object.assign(item.dataset, { model: nameOf(arm), other: nameOf(other), ...found });
  return item;
}

function sentence(title, other, { ratio, ci95, verdict }) {
  const times = (value) => value.toFixed(3);
  if (ci95 === null) return `${title}: ${times(ratio)} times as long as ${other}; an interval needs ${DUET.least_sets} workers of each in turns.`;
  const interval = (low, high) => `(95 % interval ${times(low)} to ${times(high)})`;
  if (verdict === "faster") return `${title}: ${times(1 / ratio)} times as fast as ${other} ${interval(1 / ci95[1], 1 / ci95[0])}.`;
  const words = `${title}: ${times(ratio)} times as long as ${other} ${interval(...ci95)}`;
  return verdict === "slower" ? `${words}.` : verdict === "cannot tell" ? `${words}: the measurement cannot tell which is faster; measure longer.` : `${words}: no difference seen.`;
}

function p50(arm) {
  return median(arm.processes.flatMap((one) => one.latency_ns));
}

function follow() {
  const source = new EventSource(`api/events?device=${id}`);
  source.onmessage = ({ data }) => {
    const { devices, results } = JSON.parse(data);
    const busy = devices.filter((device) => device.text !== "done").map((device) => `${device.name}: ${device.text}${device.fraction === null ? "" : ` (${Math.round(100 * device.fraction)} %)`}`);
    byId("there").textContent = busy.length ? `Now measuring: ${busy.join(" · ")}` : "";
    if (results.length) byId("others").replaceChildren(...results.map(row));
  };
}

function row(one) {
  const agrees = one.agreement === null ? "" : `, agrees on ${(100 * one.agreement).toFixed(1)} %`;
  const threads = threadsIn(one.threads);
  const where = `${one.target}, ${one.native ? `${threads}, ${one.engine}` : "in a browser"}${agrees}`;
  const numbers = [short(one.p50_ms), one.p95_ms === null ? "–" : short(one.p95_ms)];
  return node("tr", {}, node("th", { scope: "row" }, `${one.model} ${one.precision}`, node("small", {}, where)), ...numbers.map((text) => node("td", { className: "number" }, text)));
}

byId("form").addEventListener("submit", start);
byId("stop").addEventListener("click", () => measuring?.stop());
begin().catch((error) => trouble(error.message));
