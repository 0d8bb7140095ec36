/** "Look inside": a table of layers and tokens of the answer, each cell the token that a layer would have said. */
import { $, make, show } from './dom.js';

/** @typedef {import('./smollm.js').Token} Token @typedef {import('./smollm.js').Lens} Lens */

const ROWS = 11; // of layers at most
const COLUMNS = 128; // of tokens at most: the newest
const TOP = 5;
const NEAR_PX = 24; // from the right end: as good as at it
const MARKS = { ' ': '·', '\n': '⏎', '\t': '⇥', '\r': '←' };
const STEPS = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  Home: [0, -Infinity],
  End: [0, Infinity],
  PageUp: [-Infinity, 0],
  PageDown: [Infinity, 0],
};

/**
 * Layers to show: the last one, and every so many before it.
 * @param {number} layers of the model
 * @returns {number[]} rising
 */
export function chosenLayers(layers) {
  const step = Math.ceil(layers / (ROWS - 1));
  return Array.from({ length: Math.floor(layers / step) + 1 }, (_, i) => layers - i * step).reverse();
}

/**
 * @param {string} text of a token
 * @returns {string} the same with white space that can be seen
 */
export const visible = (text) => text.replace(/[ \n\t\r]/g, (c) => MARKS[c]);

/**
 * @param {number} p a probability
 * @param {number} [digits]
 */
export const percent = (p, digits = 0) => {
  const least = 10 ** -digits;
  const x = 100 * p;
  return x < least ? `< ${least} %` : `${x.toFixed(digits)} %`;
};

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

/** The table's body rows, the first layer on top. @returns {any[]} */
const rows = () => [...$('lens').querySelectorAll('tbody tr')];

/** @type {number[]} rising */
let layers = [];
/** @type {{token: Token, lens: Lens}[]} columns that are shown */
let columns = [];
/** @type {Token[]} tokens that are not yet */
let coming = [];
/** Whether what is shown is of the answer before. */
let stale = true;
/** @type {any} the cell that Tab reaches */
let current = null;
/** Whether the newest column is to stay in view. */
let pinned = true;
let listening = false;
/** Whether a pointer moves over the table. */
let hovering = false;

/**
 * A new answer begins.
 * @param {number} count layers of the model
 * @returns {{layers: number[], top: number}} what to ask the model for
 */
export function begin(count) {
  layers = chosenLayers(count);
  coming = [];
  stale = true;
  return { layers, top: TOP };
}

/** @param {Token} token of the answer */
export function add(token) {
  if (token.lens) coming.push(token);
}

/** An empty table. */
function build() {
  listen();
  const head = make('tr', {}, make('th', { scope: 'col', textContent: 'Layer' }));
  const body = layers.map((layer) => make('tr', {}, make('th', { scope: 'row', textContent: String(layer) })));
  const parts = [make('thead', {}, head), make('tbody', {}, ...body)];
  $('lens').replaceChildren(
    make('table', { role: 'grid', 'aria-label': 'Likeliest token after each layer' }, ...parts),
  );
  stale = false;
  columns = [];
  current = null;
  pinned = true;
  hovering = false;
  if (!$('lensArea').hidden) return;
  show('lensArea', true);
  show('insideHint', false);
  $('inside').scrollIntoView({ block: 'nearest' });
}

/** The cell that has the focus. @returns {any} */
const focused = () => document.activeElement?.closest('#lens td');

/** Keep the newest column in view, unless somebody looks at another one. */
function follow() {
  const looked = focused() || hovering;
  if (pinned && !looked) $('lens').scrollLeft = $('lens').scrollWidth;
  if (!looked) point(null);
}

/** Show what has come. Columns too many go at the left. */
export function draw() {
  if (!coming.length) return;
  if (stale) build();
  const head = $('lens').querySelector('thead tr');
  const body = rows();
  for (const token of coming.splice(0).slice(-COLUMNS)) {
    const lens = /** @type {Lens} */ (token.lens);
    columns.push({ token, lens });
    head.append(make('th', { scope: 'col', textContent: visible(lens.text), title: visible(lens.text) }));
    body.forEach((row, i) => row.append(cell(token, lens, i)));
  }
  while (columns.length > COLUMNS) {
    columns.shift();
    for (const row of [head, ...body]) row.cells[1].remove();
  }
  if (!focused()) reach(body[body.length - 1].lastElementChild);
  follow();
}

/**
 * @param {Token} token
 * @param {Lens} lens
 * @param {number} at index of the layer
 */
function cell(token, lens, at) {
  const { layer, ids, texts, probabilities } = lens.layers[at];
  const said = texts.map((t, i) => `${visible(t)} ${percent(probabilities[i])}`).join(', ');
  const e = make('td', {
    role: 'gridcell',
    tabIndex: -1,
    textContent: visible(texts[0]),
    className: ids[0] === token.id ? 'same' : '',
    'aria-label': `Layer ${layer}, for ${visible(lens.text)}: ${said}`,
  });
  e.style.setProperty('--p', probabilities[0].toFixed(3));
  return e;
}

/** Let Tab lead to a cell. @param {any} to */
function reach(to) {
  if (current) current.tabIndex = -1;
  current = to;
  current.tabIndex = 0;
}

/**
 * Show the likeliest tokens of a cell below the table.
 * @param {any} td null for the newest token's last layer
 */
function point(td) {
  for (const e of $('lens').querySelectorAll('.pointed')) e.classList.remove('pointed');
  td?.classList.add('pointed');
  const row = td ? rows().indexOf(td.parentElement) : layers.length - 1;
  const column = columns[td ? td.cellIndex - 1 : columns.length - 1];
  const { layer, texts, probabilities } = column.lens.layers[row];
  const where = layer ? `After layer ${layer}` : 'Before the first layer';
  $('lensCell').textContent = `${where}, in place of “${visible(column.lens.text)}”`;
  const items = texts.map((text, i) => {
    const item = make('li', {}, make('b', { textContent: visible(text) || '–' }), percent(probabilities[i], 1));
    item.style.setProperty('--p', probabilities[i].toFixed(3));
    return item;
  });
  $('lensTop').replaceChildren(...items);
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const step = STEPS[event.key];
  const from = /** @type {any} */ (event.target).closest('td');
  if (!step || !from) return;
  event.preventDefault();
  const body = rows();
  const row = clamp(body.indexOf(from.parentElement) + step[0], 0, body.length - 1);
  const column = clamp(from.cellIndex + step[1], 1, columns.length);
  body[row].cells[column].focus();
}

/** What a visitor does; once. */
function listen() {
  if (listening) return;
  listening = true;
  const lens = $('lens');
  lens.addEventListener('keydown', onKey);
  lens.addEventListener('pointermove', ({ target }) => {
    const td = target.closest('td');
    hovering = Boolean(td);
    if (td && !td.matches('.pointed')) point(td);
  });
  lens.addEventListener('pointerleave', () => {
    hovering = false;
    point(focused() ?? null);
  });
  lens.addEventListener('scroll', () => {
    pinned = lens.scrollWidth - lens.clientWidth - lens.scrollLeft < NEAR_PX;
  });
  new ResizeObserver(() => columns.length && follow()).observe(lens); // a panel that was hidden has not scrolled
  lens.addEventListener('focusin', ({ target }) => {
    if (!target.closest('td')) return;
    reach(target);
    point(target);
  });
}
