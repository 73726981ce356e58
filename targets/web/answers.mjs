// Turns a model's outputs into its answer as its contract says; the reference is targets/harness/answers.py.

import { detect } from "./detections.mjs";
import { classMap } from "./maps.mjs";
import { placeOf, toPicture } from "./picture.mjs";

// Functions of the labelled outputs { data, dims } of one request, the contract, and the size { width, height } of the picture.
const ANSWERS = {
  classification: probabilities,
  "multi-label": independent,
  regression: values,
  embedding: values,
  "sentence-embedding": values,
  segmentation: mask,
  detection: boxes,
};

// Returns the answer in the outputs by name: probabilities or values (D), the class of each pixel of the input (H, W), or detections
// [class, score, x1, y1, x2, y2] in pixels of the picture.
export function answerOf(outputs, contract, size) {
  const labelled = contract.output.split("+").map((name) => {
    const found = outputs[name];
    if (found === undefined) throw new Error(`the contract names output '${name}', but the model has ${Object.keys(outputs).join(", ")}`);
    return found;
  });
  return ANSWERS[contract.task](labelled, contract, size);
}

function probabilities([{ data }], contract) {
  if (contract.probabilities) return Float64Array.from(data);
  const largest = data.reduce((most, value) => Math.max(most, value), -Infinity);
  const exponentials = Float64Array.from(data, (logit) => Math.exp(logit - largest));
  const sum = exponentials.reduce((whole, value) => whole + value, 0);
  return exponentials.map((value) => value / sum);
}

function independent([{ data }], contract) {
  return Float64Array.from(data, (logit) => (contract.probabilities ? logit : 1 / (1 + Math.exp(-logit))));
}

function values([{ data }]) {
  return Float64Array.from(data);
}

function mask([{ data, dims }], { picture }) {
  const [classes, height, width] = dims.slice(-3);
  return classMap(data, { classes, height, width }, picture);
}

function boxes([scores, corners], { picture, detection }, { width, height }) {
  const found = detect(scores.data, corners.data, detection);
  const where = picture.rule === null ? null : placeOf(width, height, picture);
  return found.map(([kind, score, ...box]) => {
    const moved = where === null ? box : toPicture(box, where);
    return [kind, score, ...moved.map((value, i) => Math.min(Math.max(Math.fround(value), 0), i % 2 ? height : width))];
  });
}
