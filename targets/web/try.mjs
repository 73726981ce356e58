// "Try it": a model answers a test picture, a photo or the camera, and the page draws the answers. try_texts.mjs is for texts.

import { clear, drawFrame } from "./draw.mjs";
import { Live } from "./live.mjs";
import { showAnswer, showTimes } from "./show.mjs";
import { offerTexts, stopTexts } from "./try_texts.mjs";
import { Camera, decode, pixelsOf, whyNoCamera } from "./sources.mjs";

const STILL = 5; // answers of a picture that does not move: the first one warms up, and the times are of the others
const RECENT = 30; // frames of the camera whose times are shown

const byId = (id) => document.getElementById(id);
let run;
let live = null; // the model that is loaded
let key = ""; // which one, and where it runs
let turn = 0; // grows whenever another picture, source or model is chosen, which ends the work for the one before
let again = null; // what was chosen last: a function of whether it is still chosen
let shown = null; // the answer on the page
let number = 0;
let camera = null;
let cameraId = null;

const sources = {
  test: () => begin(testPicture),
  photo: () => byId("photo").click(),
  camera: () => begin(film),
};

// Offers what the run has; `places` are { title, provider, threads }, the default first.
export function offerTrying(given, places) {
  run = given;
  const models = run.models.filter((model) => model.contract?.picture);
  byId("try").hidden = false;
  if (run.models.some((model) => model.contract?.text)) return offerTexts(run, places);
  byId("try-parts").hidden = models.length === 0;
  if (!models.length) {
    const reason = run.models.find((model) => model.contract)?.contract.reason ?? "this run was exported by an older version, without a contract";
    byId("try-note").textContent = `Not for this run: ${reason}.`;
    return;
  }
  byId("try-model").append(...models.map((model) => new Option(model.title, model.key)));
  byId("try-place").append(...places.map(({ title, provider, threads }) => new Option(title, JSON.stringify({ provider, threads }))));
  byId("use-test").hidden = run.pictures.length === 0;
  const reason = whyOneSize(models[0].contract.picture) ?? whyNoCamera();
  byId("use-camera").disabled = reason !== null;
  byId("no-camera").textContent = reason ?? "";
  listen();
}

// Why a model takes pictures of one size only, or null; the forms of a student have the same rules.
function whyOneSize({ rule, width, height }) {
  if (rule !== null) return null;
  return `No camera: this model takes only pictures of ${width}x${height} pixels. Set data.size and run again: then pictures of other sizes are resized.`;
}

function listen() {
  for (const [name, use] of Object.entries(sources)) byId(`use-${name}`).addEventListener("click", use);
  for (const id of ["try-model", "try-place"]) byId(id).addEventListener("change", () => !camera && again && begin(again)); // film() asks for the model again
  byId("photo").addEventListener("change", () => {
    const [file] = byId("photo").files;
    if (file) begin((current) => photo(file, current));
    byId("photo").value = ""; // so that the same file can be chosen again
  });
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  byId("camera-stop").addEventListener("click", stopTrying);
  byId("camera-next").addEventListener("click", async () => {
    cameraId = await camera.next();
    begin(film);
  });
  for (const id of ["least", "labels"]) byId(id).addEventListener("input", draw);
  new ResizeObserver(draw).observe(byId("overlay"));
}

// Ends the work and releases the camera and the model's memory; the last picture stays.
export function stopTrying() {
  turn += 1;
  stopTexts();
  release();
  live?.end();
  live = null;
  key = "";
  say("");
}

function release() {
  camera?.close();
  camera = null;
  byId("of-camera").hidden = true;
}

function step(by) {
  number = (number + by + run.pictures.length) % run.pictures.length;
  begin(testPicture);
}

function say(text, bad = false) {
  byId("try-status").textContent = text;
  byId("try-status").className = bad ? "bad" : "note";
}

async function begin(open) {
  const mine = ++turn;
  const current = () => mine === turn;
  again = open;
  release();
  say("");
  try {
    await open(current);
  } catch (error) {
    if (!current()) return;
    release();
    say(error.message, true);
  }
}

// Removes the answer of the picture before.
function blank() {
  shown = null;
  clear(byId("overlay"));
  byId("answer").replaceChildren();
  byId("times").hidden = true;
  byId("times-note").textContent = "";
}

// Returns the chosen model; its answers wait until it is loaded.
function model() {
  const wanted = `${byId("try-model").value} ${byId("try-place").value}`;
  if (key !== wanted || live.failed) {
    live?.end();
    const about = run.models.find(({ key: name }) => name === byId("try-model").value);
    live = new Live(about, JSON.parse(byId("try-place").value), say);
    key = wanted;
  }
  return live;
}

function show(kind, image, size) {
  for (const name of Object.keys(sources)) byId(`use-${name}`).setAttribute("aria-pressed", name === kind);
  byId("of-test").hidden = kind !== "test";
  byId("of-camera").hidden = kind !== "camera";
  byId("scene").hidden = false;
  byId("view").style.setProperty("--ratio", size.width / size.height);
  byId("view").classList.toggle("coarse", Math.max(size.width, size.height) < 200);
  drawFrame(byId("frame"), image, size);
}

async function testPicture(current) {
  const [image, label] = await Promise.all([fetchPicture(`pictures/${number}.png`), labelOf(number)]);
  if (!current()) return;
  byId("place").textContent = `Picture ${number + 1} of ${run.pictures.length} of the test set`;
  await still("test", image, label, current);
}

async function fetchPicture(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: the server answered ${answer.status}`);
  return decode(await answer.blob());
}

// Returns the label of a test picture; a mask as the class of each pixel.
async function labelOf(place) {
  const label = run.pictures[place];
  if (!label.mask) return label;
  const image = await fetchPicture(`masks/${place}.png`);
  const { data } = pixelsOf(image, image.width, image.height);
  return { ...label, mask: Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]) };
}

async function photo(file, current) {
  const image = await decode(file);
  if (current()) await still("photo", image, null, current);
}

async function still(kind, image, label, current) {
  const size = { width: image.width, height: image.height };
  show(kind, image, size);
  blank();
  const times = [];
  const chosen = model();
  for (let i = 0; i < STILL && current(); i++) {
    const begin = performance.now();
    const picture = pixelsOf(image, size.width, size.height);
    const reading = performance.now() - begin;
    const { answer, ms } = await chosen.answer(picture);
    if (!current()) return;
    shown = { answer, label, size, contract: chosen.model.contract };
    if (i === 0) draw();
    else times.push(withReading(ms, reading));
  }
  showTimes(times, null);
}

const withReading = (ms, reading) => ({ ...ms, preprocessing: ms.preprocessing + reading });

async function film(current) {
  const opened = new Camera(byId("video"));
  await opened.open(cameraId, () => current() && (stopTrying(), say("The camera stopped.", true)));
  if (!current()) return opened.close();
  camera = opened;
  byId("camera-next").hidden = (await camera.next()) === null;
  let chosen = null;
  let recent = [];
  while (current()) {
    if (chosen !== model()) [chosen, recent] = [model(), []];
    const { picture, ms: reading, image } = await opened.frame();
    if (!current()) return;
    const size = { width: picture.width, height: picture.height };
    if (!recent.length) {
      show("camera", image, size); // while the model is loaded
      blank();
    }
    const { answer, ms } = await chosen.answer(picture);
    if (!current()) return;
    show("camera", image, size); // the frame of this answer: no box lags behind
    shown = { answer, label: null, size, contract: chosen.model.contract };
    draw();
    recent.push({ ...withReading(ms, reading), at: performance.now() });
    if (recent.length > RECENT) recent.shift();
    showTimes(recent, opened.frameRate);
  }
}

function draw() {
  byId("least-text").textContent = Number(byId("least").value).toFixed(2);
  if (shown) showAnswer(shown, { least: Number(byId("least").value), labels: byId("labels").checked });
}
