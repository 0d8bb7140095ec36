/**
 * Markdown as formatted text. No HTML of the model's gets through: `marked` is configured to know none, so that it
 * stays text, and of what `marked` makes, `dompurify` lets only the elements below pass. Nothing is fetched: a picture
 * becomes its words.
 */
import { Marked } from './vendor/marked.js';
import purify from './vendor/purify.js';
import { make } from './dom.js';

const TOP_LEVEL = 3; // of a heading within an answer: the page has its own above it
const HEADINGS = [1, 2, 3, 4, 5, 6].map((n) => `h${n}`);
purify.setConfig({
  // once: read again for each piece it would cost more than the pieces
  ALLOWED_TAGS: [
    ...HEADINGS,
    'p',
    'br',
    'hr',
    'em',
    'strong',
    'del',
    'code',
    'pre',
    'blockquote',
    'ul',
    'ol',
    'li',
    'a',
    'table',
    'thead',
    'tbody',
    'tr',
    'th',
    'td',
  ],
  ALLOWED_ATTR: ['href', 'start', 'align'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ['start', 'align'], // whose values are no addresses
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
});

/**
 * @param {string} text
 * @returns {string} HTML that shows it
 */
const escaped = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true, // a model that begins a new line means one
  tokenizer: { html: () => undefined, tag: () => undefined },
  renderer: {
    heading({ tokens, depth }) {
      const level = Math.min(depth + TOP_LEVEL - 1, HEADINGS.length);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    image: ({ text, href }) => escaped(text || href),
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
});

/** What `marked` reads: one kind of line end, so that lengths are the source's. @param {string} text */
const readable = (text) => text.replace(/\r\n?/g, '\n');

/** Links open elsewhere and send no referrer; what is too wide scrolls. @param {DocumentFragment} out */
function addLinksAndScrolling(out) {
  const away = { target: '_blank', rel: 'noopener noreferrer nofollow' };
  for (const a of out.querySelectorAll('a')) Object.assign(a, away);
  for (const table of out.querySelectorAll('table')) {
    const frame = make('div', { className: 'wide', tabIndex: 0, role: 'group', 'aria-label': 'Table' });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of out.querySelectorAll('pre')) {
    pre.tabIndex = 0; // a keyboard scrolls it
    pre.setAttribute('role', 'group');
    pre.setAttribute('aria-label', 'Code');
  }
  return out;
}

/**
 * @param {import('./vendor/marked.js').Token[]} tokens
 * @returns {DocumentFragment}
 */
const toFragment = (tokens) => addLinksAndScrolling(purify.sanitize(marked.parser(tokens)));

/**
 * @param {string} text
 * @returns {DocumentFragment}
 */
export const render = (text) => toFragment(marked.lexer(readable(text)));

/**
 * A text that grows. A block that two others follow changes no more (a single one may become its next item, as "2"
 * becomes "2."), so only the last two are parsed and drawn again: the work for a token does not grow with the answer.
 */
export class GrowingMarkdown {
  #settled = 0; // characters whose blocks are drawn for good
  /** @type {ChildNode[]} nodes of the blocks that may change */
  #growing = [];

  /** @param {HTMLElement} place */
  constructor(place) {
    this.place = place;
  }

  /** @param {string} text all of it so far */
  update(text) {
    const source = readable(text);
    const tokens = marked.lexer(source.slice(this.#settled));
    const blocks = tokens.flatMap((t, i) => (t.type === 'space' ? [] : [i]));
    const first = blocks.at(-2) ?? 0;
    for (const node of this.#growing) node.remove();
    if (first) this.place.append(toFragment(tokens.slice(0, first)));
    const growing = toFragment(tokens.slice(first));
    this.#growing = [...growing.childNodes];
    this.#settled += tokens.slice(0, first).reduce((n, t) => n + t.raw.length, 0);
    this.place.append(growing);
  }
}
