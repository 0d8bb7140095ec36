// Charts as SVG: a series of dots or an area, limits as dashed lines, and an axis that an outlier does not flatten.
import { s, short, ticks } from "./common.js";

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

const text = (x, y, kind, anchor, words) => s("text", { x, y, class: kind, "text-anchor": anchor }, words);
const rule = (x1, x2, y1, y2, kind) => s("line", { x1, x2, y1, y2, class: kind });

// dashed lines with their names in the right margin
function limitLines(limits, y, x0, x1) {
  const at = limits.map(([v]) => y(v));
  const labels = apart(
    at.map((v) => -v),
    13,
  ).map((v) => -v); // what has no room goes upwards
  return limits.map(([, name, look], i) => [
    rule(x0, x1, at[i], at[i], `lab-limit lab-limit-${look}`),
    text(x1 + 5, labels[i] + 4, `lab-limit-text lab-limit-${look}`, "start", name),
  ]);
}

// what lies above the axis: a triangle at the edge for each, the largest with its value
function outliers(points, high, x, top, x1, unit) {
  const above = points.filter(([, v]) => v > high);
  if (!above.length) return null;
  const [at, value] = above.reduce((a, b) => (b[1] > a[1] ? b : a));
  const left = x(at) > x1 - 110;
  const marks = above.map(([a]) => `M${(x(a) - 4).toFixed(1)} ${top + 1}h8l-4 -7Z`).join("");
  return [
    s("path", { d: marks, class: "lab-outlier" }),
    text(x(at) + (left ? -8 : 8), top, "lab-outlier-text", left ? "end" : "start", `${short(value)} ${unit}`),
  ];
}

/**
 * A chart. `points` are [[x, y]…], `second` another series; `limits` are [[y, name, look]…]; `kind` is "dots" or
 * "area". `robust` says that single large values may stand at the edge of the axis.
 */
export function chart({
  title,
  note,
  points,
  second = [],
  limits = [],
  kind,
  xLabel,
  unit = "",
  xMin = 0,
  xMax = 1,
  width,
  height = 156,
  robust = false,
}) {
  const margin = limits.length ? 12 + 6.3 * Math.max(...limits.map(([, name]) => name.length)) : 14;
  const left = 40,
    top = 18,
    bottom = 30,
    w = Math.max(width, 240),
    x1 = w - margin,
    y1 = height - bottom;
  const data = thin(points),
    other = thin(second),
    values = [...data, ...other].map(([, v]) => v);
  const most = robust ? mostOf(values) : Math.max(0, ...values);
  const high = 1.12 * Math.max(most, ...limits.map(([v]) => v)) || 1;
  const last = Math.max(xMax, ...data.slice(-1).map(([a]) => a));
  const x = (v) => left + ((v - xMin) / (last - xMin || 1)) * (x1 - left);
  const y = (v) => y1 - (Math.min(v, high) / high) * (y1 - top);

  const grid = ticks(0, high, 3).map((v) => [
    rule(left, x1, y(v), y(v), "lab-grid"),
    text(left - 5, y(v) + 4, "lab-tick", "end", short(v)),
  ]);
  const whole = (v) => kind !== "dots" || Number.isInteger(v);
  const marks = ticks(xMin, last, 4)
    .filter(whole)
    .map((v) => text(x(v), y1 + 13, "lab-tick", "middle", short(v)));
  const dots = (list) =>
    list
      .filter(([, v]) => v <= high)
      .map(([a, b]) => `M${x(a).toFixed(1)} ${y(b).toFixed(1)}h0`)
      .join("");
  const shape = [];
  if (kind === "dots") shape.push(s("path", { d: dots(data), class: "lab-dots" }));
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
  return s(
    "svg",
    { width: w, height, viewBox: `0 0 ${w} ${height}`, role: "img", "aria-label": said },
    grid,
    marks,
    text((left + x1) / 2, height - 3, "lab-tick", "middle", xLabel),
    limitLines(limits, y, left, x1),
    shape,
    outliers([...data, ...other], high, x, top, x1, unit),
  );
}
