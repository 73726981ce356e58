// Turns pictures into a model's input as its contract says. The reference is targets/harness/picture.py, whose results equal those of Pillow, with which
// models are trained: the results here are the same in every byte. A picture has the pixels of a canvas: { data: RGBA, width, height }, opaque.

const BITS = 22; // Pillow rounds the weights of a pixel to this many binary places
const HALF = 1 << (BITS - 1);

// Returns the input of a model: `data` and its `shape` (1, ...).
export function prepare(picture, rules) {
  return asInput(place(picture, rules), rules);
}

// Returns a picture in the size of the input: bytes (H, W, 3), all three the same for a grey one.
export function place(picture, rules) {
  const { width, height, rule, padding } = rules;
  if (rule === null && (picture.width !== width || picture.height !== height)) {
    throw new Error(`the picture is ${picture.width}x${picture.height}; the model takes ${width}x${height}, and its contract has no rule for resizing; set data.size and run again`);
  }
  const pixels = rules.colour === "grey" ? grey(picture) : picture;
  const { size, box, corner } = placeOf(picture.width, picture.height, rules);
  const small = resized(pixels, size, box);
  if (size[0] === width && size[1] === height) return small;
  const canvas = new Uint8Array(width * height * 3).fill(padding);
  for (let y = 0; y < size[1]; y++) {
    const row = small.subarray(y * size[0] * 3, (y + 1) * size[0] * 3);
    canvas.set(row, ((corner[1] + y) * width + corner[0]) * 3);
  }
  return canvas;
}

// Returns where a picture lies in the input: its part `box` (left, top, right, bottom) is resized to `size` and stored at `corner`.
export function placeOf(width, height, rules) {
  const full = [rules.width, rules.height];
  const whole = [0, 0, width, height];
  if (rules.rule === "stretch" || rules.rule === null) return { box: whole, size: full, corner: [0, 0] };
  if (rules.rule === "crop") return { box: centred(width, height, full[0] / full[1]), size: full, corner: [0, 0] };
  const size = fitting(width, height, full);
  if (rules.rule === "letterbox-corner") return { box: whole, size, corner: [0, 0] };
  return { box: whole, size, corner: [(full[0] - size[0]) >> 1, (full[1] - size[1]) >> 1] };
}

// Returns a box, corners in pixels of the input, in pixels of the picture; it is not clipped.
export function toPicture([x1, y1, x2, y2], { box, size, corner }) {
  const scales = [size[0] / (box[2] - box[0]), size[1] / (box[3] - box[1])];
  return [x1, y1, x2, y2].map((value, i) => (value - corner[i % 2]) / scales[i % 2] + box[i % 2]);
}

function grey({ data, width, height }) {
  const pixels = new Uint8Array(data.length);
  for (let i = 0; i < data.length; i += 4) {
    const level = (19595 * data[i] + 38470 * data[i + 1] + 7471 * data[i + 2] + 32768) >> 16; // as Pillow does it
    pixels[i] = pixels[i + 1] = pixels[i + 2] = level;
  }
  return { data: pixels, width, height };
}

// Returns pixels (H, W, 3) in the type and layout of the model's input. Each step rounds to float32, as in NumPy; a byte has few values,
// so that each channel needs one table.
function asInput(pixels, { width, height, colour, dtype, layout, divide_by, mean, std }) {
  const channels = colour === "grey" ? 1 : 3;
  const values = new (dtype === "uint8" ? Uint8Array : Float32Array)(width * height * channels);
  const [step, apart] = layout === "NCHW" ? [1, width * height] : [channels, 1];
  for (let channel = 0; channel < channels; channel++) {
    const table = Float32Array.from({ length: 256 }, (_, level) => {
      if (dtype === "uint8") return level;
      const scaled = Math.fround(level / Math.fround(divide_by));
      const centred = mean === null ? scaled : Math.fround(scaled - Math.fround(mean[channel] ?? mean[0]));
      return std === null ? centred : centred / Math.fround(std[channel] ?? std[0]);
    });
    for (let i = channel, to = channel * apart; i < pixels.length; i += 3, to += step) values[to] = table[pixels[i]];
  }
  const shapes = { NHW: [1, height, width], NHWC: [1, height, width, channels], NCHW: [1, channels, height, width] };
  return { data: values, shape: shapes[layout] };
}

// Returns the part `box` of a picture resized to `size`, (H, W, 3), as Pillow does it with BILINEAR: first along the rows, then along the columns.
// The sums are integers of at most 255.5 times 2^22, which fit in 32 bits.
function resized({ data, width, height }, size, box) {
  const [left, top, right, bottom] = box.map(Math.fround); // Pillow reads the edges in float32
  const planes = alongRows(data, [width, height], weights(width, left, right, size[0]));
  return size[1] === height && top === 0 && bottom === height ? planes : alongColumns(planes, 3 * size[0], weights(height, top, bottom, size[1]));
}

function alongRows(data, [width, height], { first, count, values, taps }) {
  const wanted = first.length;
  const found = new Uint8Array(height * wanted * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let i = 0; i < wanted; i++, to += 3) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      const end = i * taps + count[i];
      for (let tap = i * taps, from = 4 * (y * width + first[i]); tap < end; tap++, from += 4) {
        const weight = values[tap];
        red = (red + Math.imul(data[from], weight)) | 0;
        green = (green + Math.imul(data[from + 1], weight)) | 0;
        blue = (blue + Math.imul(data[from + 2], weight)) | 0;
      }
      found[to] = red >> BITS;
      found[to + 1] = green >> BITS;
      found[to + 2] = blue >> BITS;
    }
  }
  return found;
}

function alongColumns(planes, length, { first, count, values, taps }) {
  const found = new Uint8Array(first.length * length);
  for (let i = 0, to = 0; i < first.length; i++) {
    const end = i * taps + count[i];
    for (let k = 0; k < length; k++, to++) {
      let sum = HALF;
      for (let tap = i * taps, from = first[i] * length + k; tap < end; tap++, from += length) {
        sum = (sum + Math.imul(planes[from], values[tap])) | 0;
      }
      found[to] = sum >> BITS;
    }
  }
  return found;
}

// Returns, for each of `wanted` places, the first of the pixels that it is made of, their count, and their weights in units of 2^-22: a
// triangle filter, which is wider where a picture becomes smaller.
function weights(n, low, high, wanted) {
  const scale = Math.fround(high - low) / wanted; // Pillow subtracts in float32
  const support = Math.max(scale, 1);
  const taps = 2 * Math.ceil(support) + 1;
  const made = { first: new Int32Array(wanted), count: new Int32Array(wanted), values: new Int32Array(wanted * taps), taps };
  for (let i = 0; i < wanted; i++) {
    const centre = low + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), n);
    const near = [];
    for (let k = first; k < last; k++) near.push(Math.max(1 - Math.abs((k - centre + 0.5) * (1 / support)), 0));
    const sum = near.reduce((whole, weight) => whole + weight, 0);
    made.first[i] = first;
    made.count[i] = near.length;
    for (const [tap, weight] of near.entries()) made.values[i * taps + tap] = Math.floor((weight / sum) * 2 ** BITS + 0.5);
  }
  return made;
}

// Returns the largest centred part of a picture with an aspect ratio.
function centred(width, height, ratio) {
  const own = width / height;
  let part = [width, height];
  if (own !== ratio) part = own >= ratio ? [ratio * height, height] : [width, width / ratio];
  const [left, top] = [(width - part[0]) * 0.5, (height - part[1]) * 0.5];
  return [left, top, left + part[0], top + part[1]];
}

// Returns the largest size with the aspect ratio of a picture that fits; the side that does not limit is rounded, half up.
function fitting(width, height, [full, tall]) {
  if (full * height <= tall * width) return [full, Math.max(1, Math.floor((2 * height * full + width) / (2 * width)))];
  return [Math.max(1, Math.floor((2 * width * tall + height) / (2 * height))), tall];
}
