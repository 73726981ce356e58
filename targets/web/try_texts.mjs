// "Try it" for models of texts: typed texts and those of the test set, with classes, or with cosines of vectors.

import { fetchBytes } from "./downloads.mjs";
import { Live } from "./live.mjs";
import { item, piece, showAnswer, showTimes } from "./show.mjs";

const REPEATS = 5; // answers of a text; the first one warms up, and the times are of the others
const NEAREST = 5;

const byId = (id) => document.getElementById(id);
const vectors = new Map(); // of the texts of the test set, by the key of a model
let run;
let live = null; // the model that is loaded
let key = ""; // which one, and where it runs
let turn = 0; // grows with each change, which ends the work for the texts before
let number = -1;

// Offers the models of a run of texts; `places` are { title, provider, threads }, the default first.
export function offerTexts(given, places) {
  run = given;
  const models = run.models.filter((model) => model.contract?.text);
  const { task, text } = models[0].contract;
  byId("try-note").textContent = "What you type stays on this device. Texts of the test set are shown as the model reads them, from their tokens.";
  for (const one of document.querySelectorAll("#try .sources, #no-camera, #view")) one.hidden = true;
  for (const id of ["typed", "scene", "of-test"]) byId(id).hidden = false;
  byId("of-second").hidden = text.texts < 2 && !isVector(task);
  byId("second-name").textContent = text.texts < 2 ? "Text to compare with" : "Second text";
  byId("try-model").append(...models.map((model) => new Option(model.title, model.key)));
  byId("try-place").append(...places.map(({ title, provider, threads }) => new Option(title, JSON.stringify({ provider, threads }))));
  for (const id of ["first-text", "second-text"]) byId(id).addEventListener("input", begin);
  for (const id of ["try-model", "try-place"]) byId(id).addEventListener("change", begin);
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  place();
}

const isVector = (task) => task === "embedding" || task === "sentence-embedding";

// Ends the work and releases the model's memory; the texts stay.
export function stopTexts() {
  turn += 1;
  live?.end();
  live = null;
  key = "";
}

function step(by) {
  number = (number + by + run.texts.length) % run.texts.length;
  const { texts } = run.texts[number];
  byId("first-text").value = texts[0];
  if (texts.length > 1) byId("second-text").value = texts[1];
  place();
  begin();
}

function place() {
  byId("place").textContent = number < 0 ? "Texts of the test set" : `Text ${number + 1} of ${run.texts.length} of the test set`;
}

function say(text, bad = false) {
  byId("try-status").textContent = text;
  byId("try-status").className = bad ? "bad" : "note";
}

async function begin() {
  const mine = ++turn;
  const current = () => mine === turn;
  const typed = [byId("first-text").value, byId("second-text").value].map((text) => text.trim());
  const about = run.models.find((one) => one.key === byId("try-model").value);
  const texts = typed.slice(0, about.contract.text.texts);
  if (texts.some((text) => !text)) return blank();
  say("");
  try {
    const chosen = model(about);
    if (isVector(about.contract.task)) await near(chosen, texts, typed[1], current);
    else await classify(chosen, texts, current);
  } catch (error) {
    if (current()) say(error.message, true);
  }
}

function blank() {
  say("");
  byId("answer").replaceChildren();
  byId("times").hidden = true;
}

function model(about) {
  const wanted = `${about.key} ${byId("try-place").value}`;
  if (key !== wanted || live.failed) {
    live?.end();
    live = new Live(about, JSON.parse(byId("try-place").value), say);
    key = wanted;
  }
  return live;
}

async function classify(chosen, texts, current) {
  const shown = run.texts[number];
  const label = shown && texts.every((text, i) => text === shown.texts[i]) ? shown.label : null;
  const { contract } = chosen.model;
  await repeat(chosen, texts, current, (answer) => showAnswer({ answer, label, contract }, {}));
}

// Shows the cosine of two texts, and the texts of the test set that are nearest to the first.
async function near(chosen, texts, other, current) {
  const others = await vectorsOf(chosen.model);
  const second = other && texts.length < 2 ? (await chosen.answerTexts([other])).answer : null;
  await repeat(chosen, texts, current, (answer) => {
    const size = answer.length;
    const found = run.texts.map(({ texts: one }, i) => [cosine(answer, others.subarray(i * size, (i + 1) * size)), one.join(" / ")]);
    found.sort(([one], [two]) => two - one);
    const lines = found.slice(0, NEAREST).map(([value, text]) => line(value, text));
    const heading = Object.assign(item(`Nearest of ${run.texts.length} texts of the test set`), { className: "heading" });
    const both = second === null ? [] : [line(cosine(answer, second), "cosine of both texts", "both")];
    byId("answer").replaceChildren(...both, heading, ...lines);
  });
}

function line(value, text, className = "near") {
  const made = item(piece("number", value.toFixed(3)), piece("name", text));
  made.className = className;
  made.dataset.value = value;
  return made;
}

async function vectorsOf({ key: name }) {
  if (!vectors.has(name)) vectors.set(name, new Float32Array(await fetchBytes(`vectors/${name}.bin`)));
  return vectors.get(name);
}

// Answers texts several times, and shows the first answer and the times of the others.
async function repeat(chosen, texts, current, show) {
  const times = [];
  let tokens = 0;
  for (let i = 0; i < REPEATS; i++) {
    const found = await chosen.answerTexts(texts);
    if (!current()) return;
    if (i > 0) times.push(found.ms);
    else show(found.answer);
    ({ tokens } = found);
  }
  showTimes(times, null);
  byId("times-note").textContent = `${tokens} tokens.`;
}

function cosine(one, other) {
  let [sum, left, right] = [0, 0, 0];
  for (let i = 0; i < one.length; i++) {
    sum += one[i] * other[i];
    left += one[i] ** 2;
    right += other[i] ** 2;
  }
  return sum / Math.sqrt(left * right || 1);
}
