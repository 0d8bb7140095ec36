// Charts as SVG: a series of dots or an area, limits as dashed lines, and an axis that an outlier does not flatten.
import { caption, s, short, svgLine, svgPicture, svgText, ticks } from "./common.js";

/** A long series in at most `most` points; the largest of each run is kept, so that no peak is lost. */
export function thin(points, most = 600) {
  if (points.length <= most) return points;
  const each = Math.ceil(points.length / most);
  const larger = (a, b) => (b[1] > a[1] ? b : a);
  const out = [];
  for (let i = 0; i < points.length; i += each) out.push(points.slice(i, i + each).reduce(larger));
  return out;
}

/** The largest value that an axis has to hold: what is above three times the 90th percentile stands at its edge. */
export function mostOf(values) {
  if (values.length < 8) return Math.max(0, ...values);
  const sorted = [...values].sort((a, b) => a - b);
  const usual = 3 * sorted[Math.floor(0.9 * (sorted.length - 1))];
  return sorted.findLast((v) => v <= usual);
}

/** Places on a line, each at least `gap` from the next, as near as may be to where they should be. */
export function apart(places, gap) {
  const order = places.map((_, i) => i).sort((a, b) => places[a] - places[b]);
  const out = [...places];
  order.forEach((i, k) => {
    if (k) out[i] = Math.max(out[i], out[order[k - 1]] + gap);
  });
  return out;
}

/** Dashed lines with their names in the right margin. */
function limitLines(limits, y, x0, x1) {
  const at = limits.map(([v]) => y(v));
  const labels = apart(
    at.map((v) => -v),
    13,
  ).map((v) => -v); // what has no room goes upwards
  return limits.map(([, name, look], i) => [
    svgLine(x0, x1, at[i], at[i], `lab-limit lab-limit-${look}`),
    svgText(x1 + 5, labels[i] + 4, `lab-limit-text lab-limit-${look}`, "start", name),
  ]);
}

/** What lies above the axis: a triangle at the edge for each, the largest with its value. */
function outliers(points, high, x, top, x1, unit) {
  const above = points.filter(([, v]) => v > high);
  if (!above.length) return null;
  const [at, value] = above.reduce((a, b) => (b[1] > a[1] ? b : a));
  const left = x(at) > x1 - 110;
  const marks = above.map(([a]) => `M${(x(a) - 4).toFixed(1)} ${top + 1}h8l-4 -7Z`).join("");
  return [
    s("path", { d: marks, class: "lab-outlier" }),
    svgText(x(at) + (left ? -8 : 8), top, "lab-outlier-text", left ? "end" : "start", `${short(value)} ${unit}`),
  ];
}

/**
 * A chart. `points` are [[x, y]…], `second` another series; `limits` are [[y, name, look]…]; `kind` is "dots" or
 * "area"; `lines` are further series, [[points, class]…], and `faint` lets the dots step back behind them. `robust`
 * says that single large values may stand at the edge of the axis.
 */
export function chart({
  title,
  note,
  points,
  second = [],
  limits = [],
  lines = [],
  kind,
  xLabel,
  unit = "",
  xMin = 0,
  xMax = 1,
  width,
  height = 156,
  robust = false,
  faint = false,
}) {
  const margin = limits.length ? 12 + 6.3 * Math.max(...limits.map(([, name]) => name.length)) : 14;
  const left = 40;
  const top = 18;
  const bottom = 30;
  const w = Math.max(width, 240);
  const x1 = w - margin;
  const y1 = height - bottom;
  const data = thin(points);
  const other = thin(second);
  const values = [...data, ...other].map(([, v]) => v);
  const most = robust ? mostOf(values) : Math.max(0, ...values);
  const high = 1.12 * Math.max(most, ...limits.map(([v]) => v)) || 1;
  const last = Math.max(xMax, ...data.slice(-1).map(([a]) => a));
  const x = (v) => left + ((v - xMin) / (last - xMin || 1)) * (x1 - left);
  const y = (v) => y1 - (Math.min(v, high) / high) * (y1 - top);

  const grid = ticks(0, high, 3).map((v) => [
    svgLine(left, x1, y(v), y(v), "lab-grid"),
    svgText(left - 5, y(v) + 4, "lab-tick", "end", short(v)),
  ]);
  const isLabelled = (v) => kind !== "dots" || Number.isInteger(v);
  const marks = ticks(xMin, last, 4)
    .filter(isLabelled)
    .map((v) => svgText(x(v), y1 + 13, "lab-tick", "middle", short(v)));
  const dots = (list) =>
    list
      .filter(([, v]) => v <= high)
      .map(([a, b]) => `M${x(a).toFixed(1)} ${y(b).toFixed(1)}h0`)
      .join("");
  const shape = [];
  if (kind === "dots") shape.push(s("path", { d: dots(data), class: faint ? "lab-dots lab-faint" : "lab-dots" }));
  for (const [list, look] of lines) {
    const line = list.map(([a, v]) => `${x(a).toFixed(1)} ${y(v).toFixed(1)}`).join("L");
    if (line) shape.push(s("path", { d: `M${line}`, class: `lab-line ${look}` }));
  }
  if (kind === "area" && data.length) {
    const line = data.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("L");
    const [first, end] = [x(data[0][0]), x(data.at(-1)[0])].map((v) => v.toFixed(1));
    shape.push(
      s("path", { d: `M${line}L${end} ${y1}L${first} ${y1}Z`, class: "lab-area" }),
      s("path", { d: `M${line}`, class: "lab-line" }),
    );
  }
  if (other.length) shape.push(s("path", { d: dots(other), class: "lab-dots lab-dots-2" }));
  const above = values.filter((v) => v > high).length;
  const far = above ? `; ${above} above the scale, to ${short(Math.max(...values))} ${unit}` : "";
  const said = `${title}: ${note}${far}`;
  return svgPicture(
    w,
    height,
    said,
    grid,
    marks,
    svgText((left + x1) / 2, height - 3, "lab-tick", "middle", xLabel),
    limitLines(limits, y, left, x1),
    shape,
    outliers([...data, ...other], high, x, top, x1, unit),
  );
}

/**
 * Latencies of tokens, ms, with the targets of the native engine and of a browser.
 * @param {string} title what a screen reader says first
 * @param {(string|Node)[]} head the caption
 * @param {string} note what is drawn, for a screen reader
 * @param {[number, number][][]} series one or two lists of [token, ms]
 * @param {[number, number]} targets ms natively, ms in a browser
 * @param {number} width pixels
 */
export function latencyChart(title, head, note, series, targets, width) {
  const [points, second = []] = series;
  const [native, browser] = targets;
  const limits = [
    [native, `${native} ms target`, 0],
    [browser, `${browser} ms, browsers`, 1],
  ];
  const axes = { kind: "dots", xLabel: "token", xMin: 1, xMax: 16, unit: "ms", robust: true };
  return [caption(...head), chart({ ...axes, title, note, points, second, limits, width })];
}
