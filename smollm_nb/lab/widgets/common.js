// What the widgets share: elements made of text nodes, numbers as they are read, figures in tiles.

const SVG = "http://www.w3.org/2000/svg";

/** Set attributes; on… become listeners, null and false are left out. */
function setUp(node, attrs, children) {
  for (const [k, v] of Object.entries(attrs ?? {})) {
    if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) node.setAttribute(k, v === true ? "" : v);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined)); // text nodes, never HTML
  return node;
}

/** An HTML element: its tag, attributes, and children or texts. */
export const h = (tag, attrs, ...children) => setUp(document.createElement(tag), attrs, children);

/** The same in SVG. */
export const s = (tag, attrs, ...children) => setUp(document.createElementNS(SVG, tag), attrs, children);

/** A text in SVG: where, its class, what of it stands there ("start", "middle", "end"), the text. */
export const svgText = (x, y, kind, anchor, text) => s("text", { x, y, class: kind, "text-anchor": anchor }, text);

/** A line in SVG, of a class. */
export const svgLine = (x1, x2, y1, y2, kind) => s("line", { x1, x2, y1, y2, class: kind });

/** A picture in SVG, pixels, with what a screen reader says of it. */
export const svgPicture = (width, height, label, ...parts) =>
  s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, parts);

/** The caption of a chart. */
export const caption = (...parts) => h("figcaption", null, ...parts);

/** Three digits, all of them from a thousand on; a dash for what is not known. */
export function short(x) {
  if (!Number.isFinite(x)) return "–";
  return Math.abs(x) >= 999.5 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3)));
}

/** A probability in percent. */
export function percent(p) {
  if (p >= 0.9995) return "100 %";
  if (p >= 0.01) return `${(100 * p).toFixed(1)} %`;
  return p > 0 ? `${(100 * p).toExponential(0)} %` : "0 %";
}

const MARKS = { " ": "·", "\n": "⏎", "\t": "⇥", "\r": "←" };

/** A token with its white space made visible. */
export const visible = (text) => text.replace(/[ \n\t\r]/g, (c) => MARKS[c]) || "∅";

/** So many of a thing. */
export const count = (n, thing) => `${n.toLocaleString("en")} ${thing}${n === 1 ? "" : "s"}`;

/** Round numbers within low..high, about `n` of them. */
export function ticks(low, high, n = 4) {
  const raw = (high - low) / n || 1;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * size >= raw) * size;
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) out.push(Number(v.toPrecision(12)));
  return out;
}

/** Round numbers of a logarithmic axis from `floor` to `roof`; powers of ten alone where it spans more than `dense`. */
export function decades(floor, roof, dense = 300) {
  const out = [];
  for (let d = Math.floor(Math.log10(floor)); d <= Math.log10(roof); d++) {
    for (const m of roof / floor < dense ? [1, 2, 5] : [1]) {
      const v = m * 10 ** d;
      if (v > floor && v < roof) out.push(Number(v.toPrecision(1)));
    }
  }
  return out;
}

/** Tokens and their probabilities, each with a bar. `format` writes a probability, `kind` is a further class. */
export function probabilityBars(title, rows, format = percent, kind = "") {
  const line = ([name, p]) =>
    h(
      "tr",
      null,
      h("td", { class: "lab-piece" }, visible(name)),
      h("td", { class: "lab-bar" }, h("span", { style: `width:${(100 * p).toFixed(1)}%` })),
      h("td", { class: "lab-num" }, format(p)),
    );
  return h("div", null, h("h4", null, title), h("table", { class: `lab-table ${kind}` }, rows.map(line)));
}

/** One figure: its name, its value, its unit. */
export function tile(name, value, unit = "") {
  return h(
    "div",
    { class: "lab-figure", role: "listitem" },
    h("div", null, name),
    h("b", null, value),
    " ",
    h("small", null, unit),
  );
}

let lastId = 0;

/** An id that no other element of the page has. */
export const newId = () => `lab-${Date.now().toString(36)}-${(lastId += 1)}`;
