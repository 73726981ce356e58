// Class maps of a segmenter, as in targets/harness/maps.py.

// Returns the class of each pixel, bytes (height, width), of maps (classes, h, w): resized bilinearly, corners not aligned, as torch's
// interpolate does it.
export function classMap(data, maps, { width, height }) {
  const down = shares(maps.height, height);
  const { low, high, share } = shares(maps.width, width);
  const { classes } = maps;
  const found = new Uint8Array(width * height);
  const row = new Float32Array(maps.width * classes);
  for (let y = 0, to = 0; y < height; y++) {
    blend(row, data, maps, [down.low[y], down.high[y], down.share[y]]);
    for (let x = 0; x < width; x++, to++) {
      const [left, right, part] = [low[x] * classes, high[x] * classes, share[x]];
      let best = -Infinity;
      for (let kind = 0; kind < classes; kind++) {
        const value = row[left + kind] * (1 - part) + row[right + kind] * part;
        if (value > best) {
          best = value;
          found[to] = kind;
        }
      }
    }
  }
  return found;
}

// Writes a row of all maps (w, classes), so that the classes of a place lie together: a sum of two of their rows.
function blend(row, data, { classes, height, width }, [low, high, share]) {
  for (let kind = 0; kind < classes; kind++) {
    const above = (kind * height + low) * width;
    const below = (kind * height + high) * width;
    for (let x = 0; x < width; x++) row[x * classes + kind] = data[above + x] * (1 - share) + data[below + x] * share;
  }
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
