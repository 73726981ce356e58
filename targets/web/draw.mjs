// Draws frames and answers: boxes with their classes, and masks as a layer of colours.

import { placeOf } from "./picture.mjs";

const MOST_SIDE = 1280; // of the frame that is shown
const COVER = 150; // of 255: how far a mask covers the picture
const GOLDEN = 137.508; // degrees: the hues of any number of classes lie far apart

// Returns the colour of a class as [red, green, blue].
export function colourOf(kind) {
  const [hue, light] = [(210 + kind * GOLDEN) % 360, [0.52, 0.42, 0.62][kind % 3]];
  const reach = 0.75 * Math.min(light, 1 - light);
  return [0, 8, 4].map((turn) => {
    const place = (turn + hue / 30) % 12;
    return Math.round(255 * (light - reach * Math.max(-1, Math.min(place - 3, 9 - place, 1))));
  });
}

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

// Shows a picture of a size in a canvas.
export function drawFrame(canvas, image, { width, height }) {
  const scale = Math.min(1, MOST_SIDE / Math.max(width, height));
  const size = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  canvas.getContext("2d").drawImage(image, 0, 0, width, height, 0, 0, size.width, size.height);
}

// Empties a canvas that lies over the frame, and fits it to the screen's pixels.
export function clear(canvas) {
  const scale = devicePixelRatio;
  Object.assign(canvas, { width: Math.round(canvas.clientWidth * scale), height: Math.round(canvas.clientHeight * scale) });
}

// Draws boxes [class, score or null, x1, y1, x2, y2] in pixels of a picture of a size; the best last, on top.
export function drawBoxes(canvas, boxes, names, size) {
  const context = canvas.getContext("2d");
  const unit = devicePixelRatio;
  const [across, down] = [canvas.width / size.width, canvas.height / size.height];
  context.font = `600 ${12 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const upwards = [...boxes].reverse();
  for (const [kind, , x1, y1, x2, y2] of upwards) {
    context.strokeStyle = css(colourOf(kind));
    context.lineWidth = 2 * unit;
    context.strokeRect(x1 * across, y1 * down, (x2 - x1) * across, (y2 - y1) * down);
  }
  for (const [kind, score, x, y] of upwards) {
    const text = score === null ? names[kind] : `${names[kind]} ${score.toFixed(2)}`;
    tag(context, text, colourOf(kind), [x * across - unit, y * down]);
  }
}

// Writes a text on its colour above a place, or below it at the upper edge.
function tag(context, text, colour, [x, y]) {
  const unit = devicePixelRatio;
  const [wide, high] = [context.measureText(text).width + 8 * unit, 17 * unit];
  const left = Math.max(0, Math.min(x, context.canvas.width - wide));
  const top = y >= high ? y - high : y;
  context.fillStyle = css(colour);
  context.fillRect(left, top, wide, high);
  context.fillStyle = brightness(colour) > 0.55 ? "#000" : "#fff";
  context.fillText(text, left + 4 * unit, top + high / 2);
}

const brightness = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue) / 255;

// Draws a mask, the class of each pixel of the input, over a picture of a size; classes from `count` on are void.
export function drawMask(canvas, mask, count, rules, size) {
  const layer = Object.assign(document.createElement("canvas"), { width: rules.width, height: rules.height });
  const image = new ImageData(rules.width, rules.height);
  const pixels = new Uint32Array(image.data.buffer);
  const colours = paletteOf(count);
  for (let i = 0; i < mask.length; i++) pixels[i] = colours[mask[i]];
  layer.getContext("2d").putImageData(image, 0, 0);
  const { box, size: part, corner } = placeOf(size.width, size.height, rules);
  const [across, down] = [canvas.width / size.width, canvas.height / size.height];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(layer, ...corner, ...part, box[0] * across, box[1] * down, (box[2] - box[0]) * across, (box[3] - box[1]) * down);
}

// Returns the pixel of each class; what is no class is transparent.
function paletteOf(count) {
  const bytes = new Uint8Array(4 * 256);
  for (let kind = 0; kind < count; kind++) bytes.set([...colourOf(kind), COVER], 4 * kind);
  return new Uint32Array(bytes.buffer);
}
