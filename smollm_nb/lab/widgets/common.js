// What the widgets of the laboratory share: elements made of text nodes, and charts as SVG. `lab.module` pastes it in front of each widget.

const SVG = "http://www.w3.org/2000/svg";

// set attributes; on… become listeners, null and false are left out
function dress(node, attrs, children) {
  for (const [k, v] of Object.entries(attrs ?? {})) {
    if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) node.setAttribute(k, v === true ? "" : v);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined)); // strings become text nodes, never HTML
  return node;
}

export const h = (tag, attrs, ...children) => dress(document.createElement(tag), attrs, children);
export const s = (tag, attrs, ...children) => dress(document.createElementNS(SVG, tag), attrs, children);

export const short = (x) => (Number.isFinite(x) ? (Math.abs(x) >= 999.5 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3)))) : "–");
export const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.01 ? `${(100 * p).toFixed(1)} %` : p > 0 ? `${(100 * p).toExponential(0)} %` : "0 %");
export const visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "←") || "∅";

// round numbers within low..high, about `n` of them
export function ticks(low, high, n = 4) {
  const raw = (high - low) / n || 1;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * size >= raw) * size;
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) out.push(Number(v.toPrecision(12)));
  return out;
}

// sum up a long series: at most `most` points, the largest of each run kept, so that no peak is lost
export function thin(points, most = 600) {
  if (points.length <= most) return points;
  const each = Math.ceil(points.length / most);
  const out = [];
  for (let i = 0; i < points.length; i += each) out.push(points.slice(i, i + each).reduce((a, b) => (b[1] > a[1] ? b : a)));
  return out;
}

// a chart: title, points [[x, y]…] and perhaps a second series, limits [[y, label]…], kind "dots" or "area", and what the x axis counts
export function chart({ title, note, points, second = [], limits, kind, xLabel, xMin = 0, xMax, width, height = 150 }) {
  const left = 40, right = 62, top = 12, bottom = 30;
  const w = Math.max(width, 240), x1 = w - right, y1 = height - bottom;
  const data = thin(points), other = thin(second);
  const high = Math.max(...limits.map(([y]) => y), ...data.map(([, y]) => y), ...other.map(([, y]) => y)) * 1.12 || 1;
  const last = Math.max(xMax ?? 1, data.length ? data[data.length - 1][0] : 0);
  const x = (v) => left + ((v - xMin) / (last - xMin || 1)) * (x1 - left);
  const y = (v) => y1 - (Math.min(v, high) / high) * (y1 - top);
  const grid = ticks(0, high, 3).map((v) => [s("line", { x1: left, x2: x1, y1: y(v), y2: y(v), class: "lab-grid" }),
    s("text", { x: left - 5, y: y(v) + 4, class: "lab-tick", "text-anchor": "end" }, short(v))]);
  const marks = ticks(xMin, last, 4).filter((v) => Number.isInteger(v) || kind !== "dots").map((v) => s("text", { x: x(v), y: y1 + 13, class: "lab-tick", "text-anchor": "middle" }, short(v)));
  const lines = limits.map(([v, label], n) => [n + (kind === "area")].map((i) => [s("line", { x1: left, x2: x1, y1: y(v), y2: y(v), class: `lab-limit lab-limit-${i}` }),
    s("text", { x: x1 + 5, y: y(v) + 4, class: `lab-limit-text lab-limit-${i}` }, label)]));
  const path = data.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`);
  const beside = other.length ? s("path", { d: other.map(([a, b]) => `M${x(a).toFixed(1)} ${y(b).toFixed(1)}h0`).join(""), class: "lab-dots lab-dots-2" }) : null;
  const shape = !path.length ? [] : kind === "dots" ? [s("path", { d: path.map((p) => `M${p}h0`).join(""), class: "lab-dots" })]
    : [s("path", { d: `M${path.join("L")}L${x(data[data.length - 1][0]).toFixed(1)} ${y1}L${x(data[0][0]).toFixed(1)} ${y1}Z`, class: "lab-area" }), s("path", { d: `M${path.join("L")}`, class: "lab-line" })];
  return s("svg", { width: w, height, viewBox: `0 0 ${w} ${height}`, role: "img", "aria-label": `${title}: ${note}` },
    grid, marks, s("text", { x: (left + x1) / 2, y: height - 3, class: "lab-tick", "text-anchor": "middle" }, xLabel), lines, shape, beside);
}
