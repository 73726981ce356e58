// The samples of a model as dots in the order they were taken, one column per worker.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150;
const LEFT = 46;
const BOTTOM = 20;
const MOST_DOTS = 900;
const HIGHEST = 4; // times the median; samples above that are drawn on the upper edge, so that the others stay distinguishable

// Draws at the final width, so that the text keeps its font size.
export function plot(processes, title, width) {
  const lists = processes.map((one) => one.latency_ns.map((ns) => ns / 1e6));
  const sorted = lists.flat().sort((a, b) => a - b);
  const middle = sorted[sorted.length >> 1];
  const top = niceAbove(Math.min(sorted[Math.ceil(0.99 * (sorted.length - 1))], HIGHEST * middle));
  const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": title });
  const y = (ms) => HEIGHT - BOTTOM - (Math.min(ms, top) / top) * (HEIGHT - BOTTOM - 8);
  for (const value of [0, top / 2, top]) {
    svg.append(element("path", { d: `M${LEFT} ${y(value)}H${width}`, class: "frame" }));
    svg.append(text(LEFT - 6, y(value) + 4, value === top && sorted.at(-1) > top ? `≥ ${short(value)}` : short(value), "end"));
  }
  const column = (width - LEFT) / lists.length;
  for (const [i, list] of lists.entries()) {
    const left = LEFT + i * column;
    const stride = Math.max(1, Math.ceil((list.length * lists.length) / MOST_DOTS));
    for (let k = 0; k < list.length; k += stride) {
      const x = left + 6 + ((column - 12) * k) / Math.max(1, list.length - 1);
      svg.append(element("circle", { cx: x.toFixed(1), cy: y(list[k]).toFixed(1), r: 1.6, class: "dot" }));
    }
    svg.append(text(left + column / 2, HEIGHT - 5, lists.length > 3 ? String(i + 1) : `worker ${i + 1}`, "middle"));
  }
  svg.append(element("path", { d: `M${LEFT} ${y(middle)}H${width}`, class: "middle" }));
  svg.append(text(LEFT - 6, y(top / 4) + 4, "ms", "end"));
  return svg;
}

function niceAbove(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((step) => step >= 1.05 * value) ?? 15 * unit;
}

export function short(ms) {
  if (ms === 0) return "0";
  return Number(ms.toPrecision(3)).toString();
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function text(x, y, words, anchor) {
  const made = element("text", { x, y, "text-anchor": anchor });
  made.textContent = words;
  return made;
}
