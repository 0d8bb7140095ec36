/** What was said, turn by turn: plain data, which the page draws and the tab remembers. */

/**
 * @typedef {'chat' | 'text'} Kind a message to answer, or the beginning of a text to continue
 * @typedef {{kind: Kind, text: string, answer: string, note: string, done: boolean}} Turn
 *   `note` says why the answer ended, where that must be said
 */

const KINDS = ['chat', 'text'];

/**
 * @param {any} t
 * @returns {boolean}
 */
const sound = (t) => KINDS.includes(t?.kind) && [t.text, t.answer, t.note].every((s) => typeof s === 'string');

export class Conversation {
  /** @param {any} [saved] as `toJSON` gave it; turns that are not sound are left out */
  constructor(saved) {
    /** @type {Turn[]} */
    this.turns = (Array.isArray(saved) ? saved : []).filter(sound).map((t) => ({ ...t, done: true }));
  }

  /**
   * @param {Kind} kind
   * @param {string} text
   * @returns {Turn}
   */
  add(kind, text) {
    const turn = { kind, text, answer: '', note: '', done: false };
    this.turns.push(turn);
    return turn;
  }

  /**
   * Take out a turn and all that follow it.
   * @param {Turn} turn
   * @returns {Turn[]} those that were taken
   */
  cut(turn) {
    return this.turns.splice(this.turns.indexOf(turn));
  }

  /**
   * What the model is given: a text, or the messages of the chat that led here.
   * @param {Turn} turn
   * @returns {string | import('./text.js').Message[]}
   */
  prompt(turn) {
    if (turn.kind === 'text') return turn.text;
    const before = this.turns.slice(0, this.turns.indexOf(turn)).filter((t) => t.kind === 'chat' && t.done);
    const said = before.flatMap((t) => [
      { role: 'user', content: t.text },
      { role: 'assistant', content: t.answer },
    ]);
    return /** @type {import('./text.js').Message[]} */ ([...said, { role: 'user', content: turn.text }]);
  }

  /** An answer that was cut off by a reload is kept as far as it came. */
  toJSON() {
    const worth = this.turns.filter((t) => t.done || t.answer);
    return worth.map((t) => ({ ...t, note: t.done ? t.note : 'stopped when the page was left' }));
  }
}
