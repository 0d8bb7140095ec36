/** The latency of each token as an SVG: bars, a scale in ms, the median. */

const NS = 'http://www.w3.org/2000/svg';
const WIDTH = 320;
const HEIGHT = 150;
const LEFT = 42;
const RIGHT = 4;
const TOP = 18;
const BOTTOM = 22;
const BARS = 128; // more would be thinner than what a screen shows, and cost time while tokens come
const LEAST_BARS = 24; // so that a few are no walls
const OUTLIER = 3; // times the 95th percentile: such bars are cut, so that the others stay distinguishable

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 */
function element(tag, attributes, text = '') {
  const e = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, String(v));
  e.textContent = text;
  return e;
}

/**
 * @param {number[]} xs
 * @returns {number[]} the same, rising
 */
const sorted = (xs) => [...xs].sort((a, b) => a - b);

/**
 * @param {number[]} xs
 * @returns {number} NaN of nothing
 */
export function median(xs) {
  const s = sorted(xs);
  const n = s.length >> 1;
  return s.length % 2 ? s[n] : (s[n - 1] + s[n]) / 2;
}

/** A round step that divides a range into about four. @param {number} top above 0 */
export function niceStep(top) {
  const rough = top / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((f) => f * power >= rough * 0.999) ?? 10);
}

/** Where the scale ends: at the longest, unless that is far beyond nearly all others. @param {number[]} ms */
export function scaleTop(ms) {
  const s = sorted(ms);
  const longest = s[s.length - 1];
  const usual = s[Math.floor(0.95 * (s.length - 1))];
  return longest > OUTLIER * usual ? OUTLIER * usual : longest;
}

/**
 * Several tokens to a bar where there are many: the longest of each.
 * @param {number[]} ms
 * @returns {{each: number, bars: number[]}}
 */
export function bundled(ms) {
  const each = Math.ceil(ms.length / BARS);
  const bars = [];
  for (let i = 0; i < ms.length; i += each) bars.push(Math.max(...ms.slice(i, i + each)));
  return { each, bars };
}

/**
 * @param {number} top of the scale
 * @param {number} step
 * @param {(v: number) => number} y
 */
function grid(top, step, y) {
  const out = [];
  for (let v = 0; v <= top * 1.001; v += step) {
    const unit = v + step > top * 1.001 ? ' ms' : '';
    out.push(element('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v) }));
    out.push(element('text', { x: LEFT - 4, y: y(v) + 3, 'text-anchor': 'end' }, `${Number(v.toPrecision(3))}${unit}`));
  }
  return out;
}

/**
 * @param {SVGSVGElement} svg
 * @param {number[]} ms between tokens
 */
export function drawLatency(svg, ms) {
  if (!ms.length) return svg.replaceChildren();
  const longest = Math.max(...ms);
  const mid = median(ms);
  const end = scaleTop(ms);
  const step = niceStep(end);
  const top = step * Math.ceil(end / step);
  const { each, bars } = bundled(ms);
  const wide = (WIDTH - LEFT - RIGHT) / Math.max(bars.length, LEAST_BARS);
  const y = (v) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.min(v / top, 1));
  const out = grid(top, step, y);
  bars.forEach((v, i) => {
    const size = { x: LEFT + i * wide, y: y(v), width: wide * 0.85, height: y(0) - y(v) };
    out.push(element('rect', { class: v > top ? 'bar beyond' : 'bar', ...size }));
  });
  const label = (text, x, at, anchor, kind = '') => {
    out.push(element('text', { class: kind, x, y: at, 'text-anchor': anchor }, text));
  };
  out.push(element('line', { class: 'median', x1: LEFT, x2: WIDTH - RIGHT, y1: y(mid), y2: y(mid) }));
  label(`median ${mid.toFixed(1)} ms`, WIDTH - RIGHT, TOP - 7, 'end', 'median');
  if (longest > top) label(`longest ${longest.toFixed(0)} ms`, LEFT, TOP - 7, 'start');
  label('token 2', LEFT, HEIGHT - 6, 'start');
  if (ms.length > LEAST_BARS / 2) label(`${ms.length + 1}`, LEFT + bars.length * wide, HEIGHT - 6, 'end');
  if (each > 1) label(`the longest of each ${each}`, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, 'middle');
  svg.replaceChildren(...out);
  const words = `median ${mid.toFixed(1)} ms, longest ${longest.toFixed(1)} ms, ${ms.length + 1} tokens`;
  svg.setAttribute('aria-label', `Latency of each token: ${words}`);
}
