/** A turn on the page: what was written, the answer as it grows, and what can be done with it. */
import { announce, make } from './dom.js';

const PAINT_MS = 100; // where no graphics card paints, each time takes a core from the model
const SHARE = 8; // of the time at most one part in so many goes into painting
const COPIED_MS = 1500;

/** @typedef {import('./conversation.js').Turn} Turn */
/** @typedef {typeof import('./markdown.js')} Markdown */

/** @type {Markdown | null} until it is here, and where it cannot be had, answers are plain text */
let markdown = null;
/** @type {Promise<Markdown | null> | null} */
let arriving = null;

/** Fetch what formats answers: not before the model is there, or an answer to show. */
export function fetchMarkdown() {
  arriving ??= import('./markdown.js').then(
    (m) => {
      markdown = m;
      return m;
    },
    () => null,
  );
  return arriving;
}

/**
 * Put a text where others can paste it.
 * @param {string} text
 * @returns {Promise<boolean>}
 */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // no permission, or no secure page
    return copySelected(text);
  }
}

/**
 * The old way, which works over plain HTTP.
 * @param {string} text
 * @returns {boolean}
 */
function copySelected(text) {
  const before = /** @type {HTMLElement} */ (document.activeElement);
  const field = make('textarea', { value: text, className: 'unseen', 'aria-hidden': 'true' });
  document.body.append(field);
  field.select();
  const done = document.execCommand('copy');
  field.remove();
  before?.focus({ preventScroll: true });
  return done;
}

/**
 * @param {string} kind
 * @param {string} name for screen readers
 * @param {...(Node | string)} inside
 */
const message = (kind, name, ...inside) =>
  make('div', { className: `message ${kind}`, dir: 'auto', role: 'group', 'aria-label': name }, ...inside);

/**
 * @param {string} text
 * @param {string} name for screen readers
 * @param {(e: any) => void} onclick
 */
const tool = (text, name, onclick) =>
  make('button', { type: 'button', textContent: text, 'aria-label': name, onclick });

export class TurnView {
  #growing = /** @type {any} */ (null);

  /**
   * @param {Turn} turn
   * @param {{edit: (turn: Turn) => void, regenerate: (turn: Turn) => void}} actions
   */
  constructor(turn, { edit, regenerate }) {
    this.turn = turn;
    this.note = make('span', { className: 'note' });
    const messages = turn.kind === 'chat' ? this.#chat() : this.#text();
    const tools = make(
      'div',
      { className: 'tools' },
      tool('Copy', 'Copy the answer', ({ target }) => this.#copy(target)),
      tool('Regenerate', 'Regenerate the answer', () => regenerate(turn)),
      tool('Edit', 'Edit what you wrote', () => edit(turn)),
    );
    this.element = make('article', { className: 'turn', 'aria-label': 'Turn' }, ...messages, tools);
    if (turn.done) this.finish();
  }

  /** A message and its answer. */
  #chat() {
    this.body = make('div', { className: 'prose' });
    this.out = message('assistant', 'The model', this.body, this.note);
    return [message('user', 'You', this.turn.text), this.out];
  }

  /** A text and how it goes on. */
  #text() {
    this.body = make('span', { className: 'more' });
    const given = make('span', { className: 'given', textContent: this.turn.text });
    this.out = message('text', 'Text', given, this.body, this.note);
    return [this.out];
  }

  /** @param {any} button */
  async #copy(button) {
    const { turn } = this;
    const text = turn.kind === 'chat' ? turn.answer : turn.text + turn.answer;
    const done = await copy(text);
    button.textContent = done ? 'Copied' : 'Not allowed';
    announce(done ? 'Copied' : 'The browser does not allow copying');
    setTimeout(() => {
      button.textContent = 'Copy';
    }, COPIED_MS);
  }

  /** @param {boolean} on */
  busy(on) {
    this.element.classList.toggle('busy', on);
    this.out.setAttribute('aria-busy', String(on));
  }

  /** Show the answer as far as it is. */
  grow() {
    const { kind, answer } = this.turn;
    if (kind === 'text' || !markdown) {
      this.body.classList.add('plain');
      this.body.textContent = answer;
      return;
    }
    this.body.classList.remove('plain');
    if (!this.#growing) this.body.replaceChildren();
    this.#growing ??= new markdown.GrowingMarkdown(this.body);
    this.#growing.update(answer);
  }

  /** Show the whole answer, and why it ended. */
  finish() {
    this.#growing = null;
    const { kind, answer, note } = this.turn;
    this.note.textContent = note;
    this.body.classList.toggle('plain', kind === 'text' || !markdown);
    if (kind === 'text') this.body.textContent = answer;
    else if (markdown) this.body.replaceChildren(markdown.render(answer));
    else {
      this.body.textContent = answer;
      fetchMarkdown().then((m) => m && this.finish());
    }
  }
}

/**
 * Draw at most ten times a second, and less often where drawing takes long.
 * @param {() => void} draw
 * @returns {{soon: () => void, stop: () => void}}
 */
export function throttled(draw) {
  let timer = 0;
  let frame = 0;
  let last = -Infinity;
  let pause = PAINT_MS;
  let due = false;
  const paint = () => {
    due = false;
    const begin = performance.now();
    draw();
    last = performance.now();
    pause = Math.max(PAINT_MS, SHARE * (last - begin));
  };
  return {
    soon() {
      if (due) return;
      due = true;
      timer = setTimeout(
        () => {
          frame = requestAnimationFrame(paint);
        },
        last + pause - performance.now(),
      );
    },
    stop() {
      clearTimeout(timer);
      cancelAnimationFrame(frame);
    },
  };
}
