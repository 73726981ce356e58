// Shows an answer beside its picture: classes with their scores, or the legend of boxes and masks, and what each step took.

import { clear, colourOf, css, drawBoxes, drawMask } from "./draw.mjs";
import { placeOf } from "./picture.mjs";
import { short } from "./plot.mjs";
import { median } from "./stats.mjs";

const MOST_CLASSES = 5;
const STEPS = ["preprocessing", "network", "postprocessing"];
const KINDS = {
  classification: classes,
  "multi-label": classes,
  regression: values,
  embedding: values,
  segmentation: masks,
  detection: boxes,
};

const byId = (id) => document.getElementById(id);

export function item(...children) {
  const made = document.createElement("li");
  made.append(...children);
  return made;
}

export function piece(className, text = "") {
  return Object.assign(document.createElement("span"), { className, textContent: text });
}

// Shows an answer; `options` are the least score of a box, and whether the labels of the test set are shown in its place.
export function showAnswer(shown, options) {
  const { label, contract } = shown;
  byId("of-boxes").hidden = contract.task !== "detection";
  byId("of-labels").hidden = !(label?.boxes || label?.mask);
  clear(byId("overlay"));
  byId("answer").replaceChildren(...KINDS[contract.task](shown, options));
}

function classes({ answer, label, contract }) {
  const best = [...answer.keys()].sort((one, other) => answer[other] - answer[one]).slice(0, MOST_CLASSES);
  const found = best.map((kind) => {
    const bar = piece("bar");
    bar.style.setProperty("--share", answer[kind]);
    const made = item(piece("name", contract.classes[kind]), bar, piece("number", percent(answer[kind])));
    made.className = "score";
    made.classList.toggle("chosen", applies(answer, kind, best, contract));
    return made;
  });
  return label === null ? found : [...found, verdict(label, answer, best, contract)];
}

// Whether the model answers with a class: the best one, or each above the threshold where labels are independent.
function applies(answer, kind, best, { task, threshold, probabilities }) {
  if (task === "classification") return kind === best[0];
  return answer[kind] > (probabilities ? threshold : 1 / (1 + Math.exp(-threshold)));
}

function verdict(label, answer, best, contract) {
  const answered = [...answer.keys()].filter((kind) => applies(answer, kind, best, contract));
  const right = String(answered) === String(label.classes);
  const names = label.classes.map((kind) => contract.classes[kind]).join(", ") || "none";
  const made = item(`Label: ${names}; the answer is ${right ? "right" : "wrong"}`);
  made.className = right ? "good" : "bad";
  return made;
}

function values({ answer, label, contract }) {
  return [...answer].slice(0, 2 * MOST_CLASSES).map((value, i) => {
    const wanted = label?.values?.[i];
    const name = contract.classes[i] ?? `value ${i + 1}`;
    return item(`${name}: ${value.toPrecision(4)}`, piece("note", wanted === undefined ? "" : ` (label ${wanted.toPrecision(4)})`));
  });
}

function boxes({ answer, label, size, contract }, { least, labels }) {
  const shown = labels && label?.boxes ? label.boxes.map(([kind, ...box]) => [kind, null, ...box]) : answer.filter(([, score]) => score >= least);
  drawBoxes(byId("overlay"), shown, contract.classes, size);
  const counts = contract.classes.map((_, kind) => [kind, shown.filter(([other]) => other === kind).length]);
  if (!shown.length) return [item(labels && label?.boxes ? "No boxes in the labels." : `Nothing with a score of at least ${least.toFixed(2)}.`)];
  return legend(counts.filter(([, count]) => count > 0), contract.classes);
}

function masks({ answer, label, size, contract }, { labels }) {
  const rules = contract.picture;
  const mask = labels && label?.mask ? label.mask : answer;
  drawMask(byId("overlay"), mask, contract.classes.length, rules, size);
  const { corner, size: part } = placeOf(size.width, size.height, rules);
  const counts = new Uint32Array(256);
  for (let y = corner[1]; y < corner[1] + part[1]; y++) {
    for (let x = corner[0]; x < corner[0] + part[0]; x++) counts[mask[y * rules.width + x]] += 1;
  }
  const present = contract.classes.map((_, kind) => [kind, counts[kind] / (part[0] * part[1])]).filter(([, share]) => share > 0.0005);
  return legend(present.map(([kind, share]) => [kind, percent(share)]), contract.classes);
}

// In the order of the classes, so that entries keep their places from frame to frame.
function legend(entries, names) {
  return entries.map(([kind, text]) => {
    const chip = piece("chip");
    chip.style.background = css(colourOf(kind));
    const made = item(chip, `${names[kind]} `, piece("note", text));
    made.className = "entry";
    return made;
  });
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

// Shows the medians of the milliseconds of each step, and the frames per second of a camera, whose own rate is `frameRate`; for a single
// picture, whose times have no `at`, the sum of the steps.
export function showTimes(times, frameRate) {
  if (!times.length) return;
  byId("times").hidden = false;
  const medians = STEPS.map((step) => median(times.map((one) => one[step])));
  for (const [i, step] of STEPS.entries()) byId(step).textContent = `${short(medians[i])} ms`;
  const span = times.at(-1).at - times[0].at;
  const moves = times.length > 1 && span > 0;
  byId("rate-name").textContent = moves ? "frames per second" : "in all";
  byId("rate").textContent = moves ? (((times.length - 1) / span) * 1000).toFixed(1) : `${short(medians.reduce((sum, ms) => sum + ms, 0))} ms`;
  byId("times-note").textContent = moves && frameRate ? `The camera gives at most ${Math.round(frameRate)} frames per second.` : "";
}
