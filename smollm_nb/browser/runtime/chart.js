/** The latency of each token as an SVG: bars, a scale in ms, the median. */

const NS = 'http://www.w3.org/2000/svg', WIDTH = 320, HEIGHT = 150, LEFT = 42, RIGHT = 4, TOP = 18, BOTTOM = 22;

/** @param {string} tag @param {Record<string, string | number>} attributes @param {string} [text] */
function element(tag, attributes, text = '') {
  const e = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, String(v));
  e.textContent = text;
  return e;
}

/** @param {number[]} xs @returns {number} NaN of nothing */
export function median(xs) {
  const s = [...xs].sort((a, b) => a - b), n = s.length >> 1;
  return s.length % 2 ? s[n] : (s[n - 1] + s[n]) / 2;
}

/** A round step that divides a range into about four. @param {number} top above 0 */
export function niceStep(top) {
  const rough = top / 4, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((f) => f * power >= rough * 0.999);
}

/** @param {SVGSVGElement} svg @param {number[]} ms between tokens */
export function drawLatency(svg, ms) {
  if (!ms.length) return svg.replaceChildren();
  const step = niceStep(Math.max(...ms)), top = step * Math.ceil(Math.max(...ms) / step), mid = median(ms);
  const y = (v) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - v / top), wide = (WIDTH - LEFT - RIGHT) / Math.max(ms.length, 24);
  const out = [];
  for (let v = 0; v <= top * 1.001; v += step) {
    out.push(element('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v) }));
    out.push(element('text', { x: LEFT - 4, y: y(v) + 3, 'text-anchor': 'end' }, `${Number(v.toPrecision(3))}${v + step > top * 1.001 ? ' ms' : ''}`));
  }
  ms.forEach((v, i) => out.push(element('rect', { class: 'bar', x: LEFT + i * wide, y: y(v), width: Math.max(wide * 0.85, 0.5), height: y(0) - y(v) })));
  out.push(element('line', { class: 'median', x1: LEFT, x2: WIDTH - RIGHT, y1: y(mid), y2: y(mid) }));
  out.push(element('text', { class: 'median', x: WIDTH - RIGHT, y: TOP - 7, 'text-anchor': 'end' }, `median ${mid.toFixed(1)} ms`));
  out.push(element('text', { x: LEFT, y: HEIGHT - 6 }, 'token 2'));
  out.push(element('text', { x: LEFT + ms.length * wide, y: HEIGHT - 6, 'text-anchor': ms.length * wide > 60 ? 'end' : 'start' }, ms.length > 12 ? `${ms.length + 1}` : ''));
  svg.replaceChildren(...out);
  svg.setAttribute('aria-label', `Latency of each token: median ${mid.toFixed(1)} ms, longest ${Math.max(...ms).toFixed(1)} ms, ${ms.length + 1} tokens`);
}
