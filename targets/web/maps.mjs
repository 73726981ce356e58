// Class maps of a segmenter, as in targets/harness/maps.py.

// Returns the class of each pixel, bytes (height, width), of maps (classes, h, w): resized bilinearly, corners not aligned, as torch's interpolate does it.
export function classMap(data, maps, { width, height }) {
  const down = shares(maps.height, height);
  const { low, high, share } = shares(maps.width, width);
  const found = new Uint8Array(width * height);
  const row = new Float32Array(maps.width);
  const best = new Float32Array(width);
  for (let y = 0; y < height; y++) {
    best.fill(-Infinity);
    for (let kind = 0; kind < maps.classes; kind++) {
      blend(row, data, kind * maps.height * maps.width, down, y);
      for (let x = 0; x < width; x++) {
        const value = row[low[x]] * (1 - share[x]) + row[high[x]] * share[x];
        if (value > best[x]) {
          best[x] = value;
          found[y * width + x] = kind;
        }
      }
    }
  }
  return found;
}

// Writes row `y` of one map, a sum of two of its rows.
function blend(row, data, begin, down, y) {
  const above = begin + down.low[y] * row.length;
  const below = begin + down.high[y] * row.length;
  for (let x = 0; x < row.length; x++) row[x] = data[above + x] * (1 - down.share[y]) + data[below + x] * down.share[y];
}

// Returns, for each of `wanted` places, the two of `size` values that it is made of, and the share of the second.
function shares(size, wanted) {
  const made = { low: new Int32Array(wanted), high: new Int32Array(wanted), share: new Float32Array(wanted) };
  for (let i = 0; i < wanted; i++) {
    const place = Math.max((i + 0.5) * (size / wanted) - 0.5, 0);
    made.low[i] = Math.min(Math.floor(place), size - 1);
    made.high[i] = Math.min(made.low[i] + 1, size - 1);
    made.share[i] = place - made.low[i];
  }
  return made;
}
