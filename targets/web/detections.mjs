// Non-maximum suppression, as in targets/harness/detections.py: the same boxes, because each step rounds to float32 as there.

const { fround, max, min } = Math;

// Returns detections [class, score, x1, y1, x2, y2], the best first, of scores (A, C) and boxes (A, 4), corners in pixels of the input.
// Scores above `floor` are candidates; a box whose overlap (IoU) with a better box of its class is above `overlap` is suppressed; at most
// `limit` are kept. Boxes of no area are left out, and outputs that are not finite give none.
export function detect(scores, boxes, { floor, overlap, limit }) {
  if (!scores.every(Number.isFinite) || !boxes.every(Number.isFinite)) return [];
  const classes = scores.length / (boxes.length / 4);
  const most = fround(overlap);
  const kept = [];
  for (const place of candidates(scores, boxes, classes, fround(floor))) {
    const [kind, cell] = [place % classes, Math.floor(place / classes)];
    if (kept.some((other) => other.kind === kind && iou(boxes, 4 * cell, 4 * other.cell) > most)) continue;
    kept.push({ kind, cell, score: scores[place] });
    if (kept.length === limit) break;
  }
  return kept.map(({ kind, cell, score }) => [kind, score, ...boxes.subarray(4 * cell, 4 * cell + 4)]);
}

// Returns the places of scores above the floor whose boxes have an area, the highest score first; equal scores keep their order.
function candidates(scores, boxes, classes, floor) {
  const found = [];
  for (let cell = 0; cell < boxes.length / 4; cell++) {
    if (!(boxes[4 * cell + 2] > boxes[4 * cell] && boxes[4 * cell + 3] > boxes[4 * cell + 1])) continue;
    for (let place = cell * classes; place < (cell + 1) * classes; place++) if (scores[place] > floor) found.push(place);
  }
  return found.sort((one, other) => scores[other] - scores[one]);
}

// Returns the intersection over union of the boxes at two places; 0 if both have no area.
function iou(boxes, one, other) {
  const wide = max(fround(min(boxes[one + 2], boxes[other + 2]) - max(boxes[one], boxes[other])), 0);
  const high = max(fround(min(boxes[one + 3], boxes[other + 3]) - max(boxes[one + 1], boxes[other + 1])), 0);
  const shared = fround(wide * high);
  const union = fround(fround(area(boxes, one) + area(boxes, other)) - shared);
  return union > 0 ? fround(shared / union) : shared;
}

const area = (boxes, place) => fround(fround(boxes[place + 2] - boxes[place]) * fround(boxes[place + 3] - boxes[place + 1]));
