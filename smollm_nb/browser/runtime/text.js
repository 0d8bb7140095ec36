/** Text to ids and back by npm's tokenizers library, chats by npm's jinja; never half a character, and special tokens only where they are asked for. */
import { parameterError, tokenizerError } from './errors.js';

/** How byte-level BPE writes each byte as one visible character (the table of GPT-2). @returns {Map<string, number>} symbol → byte */
function byteSymbols() {
  const out = new Map();
  let hidden = 0x100;
  for (let b = 0; b < 256; b++) {
    const visible = (b >= 0x21 && b < 0x7f) || (b >= 0xa1 && b < 0xad) || b >= 0xae;
    out.set(String.fromCharCode(visible ? b : hidden++), b);
  }
  return out;
}
const BYTE_OF = byteSymbols();

/** The library splits digits by `\d`, the original by all of Unicode's numbers. @param {any} p a pre-tokenizer @returns {any} one that both read alike */
function exactDigits(p) {
  if (p?.type === 'Sequence') return { ...p, pretokenizers: p.pretokenizers.map(exactDigits) };
  if (p?.type !== 'Digits') return p;
  return { type: 'Split', pattern: { Regex: p.individual_digits ? '\\p{N}' : '\\p{N}+' }, behavior: 'Isolated', invert: false };
}

/**
 * Undo the bundle's short form: a token that a merge spells is not listed, such tokens are numbered in the order of the merges. They go straight
 * into the library's tables: by way of the whole `tokenizer.json` it makes each of them out of several copies, which takes twice as long.
 * @param {{tokens_to_ids: Map<string, number>, vocab: string[], bpe_ranks: Map<string, number>}} model @param {string[]} merges @param {number} first number
 */
function addMerges({ tokens_to_ids: ids, vocab, bpe_ranks: ranks }, merges, first) {
  merges.forEach((merge, i) => {
    const [a, b] = merge.split(' '), token = a + b;
    ids.set(token, first + i);
    vocab[first + i] = token;
    ranks.set(JSON.stringify([a, b]), i);
  });
}

const escape = (s) => s.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
const content = (t) => (typeof t === 'object' && t ? t.content : t) ?? null;

/** @typedef {{role: 'system' | 'user' | 'assistant', content: string}} Message */

export class Tokenizer {
  /** @param {any} Library class of npm's tokenizers @param {any} Template class of npm's jinja, or null @param {any} json tokenizer.json @param {any} config tokenizer_config.json @param {string} [template] */
  constructor(Library, Template, json, config, template) {
    const special = (json.added_tokens ?? []).filter((t) => t.special);
    this.specialIds = new Map(special.map((t) => [t.content, t.id]));
    this.specialTexts = new Map(special.map((t) => [t.id, t.content]));
    const { vocab_from_merges: first, ...rest } = json, merges = first === undefined ? [] : rest.model.merges;
    if (first !== undefined) rest.model = { ...rest.model, merges: [] };
    const plain = { ...rest, added_tokens: json.added_tokens?.filter((t) => !t.special) ?? [], pre_tokenizer: exactDigits(json.pre_tokenizer) };
    this.library = new Library(plain, config); // knows no special token, so none can slip in
    addMerges(this.library.model, merges, first);
    this.bos = content(config.bos_token);
    this.eos = content(config.eos_token);
    this.template = template ?? config.chat_template;
    this.Template = Template;
    const longestFirst = [...this.specialIds.keys()].sort((a, b) => b.length - a.length);
    this.anywhere = new RegExp(longestFirst.map(escape).join('|') || '(?!)', 'g');
  }

  /** @param {string} text @param {boolean} [special] read special tokens that stand in the text as tokens @returns {number[]} */
  encode(text, special = false) {
    if (typeof text !== 'string') throw tokenizerError(`text must be a string, not ${typeof text}`);
    if (/\p{Surrogate}/u.test(text)) throw tokenizerError('text holds half a surrogate pair: it was cut or decoded wrongly before');
    return special ? this.#split(text, (t) => t) : this.#plain(text);
  }

  #plain(text) { return text ? this.library.encode(text, { add_special_tokens: false }).ids : []; }

  /** Special tokens as tokens, all between them as text. @param {string} text @param {(between: string) => string} clean @returns {number[]} */
  #split(text, clean) {
    const ids = [];
    let at = 0;
    for (const found of text.matchAll(this.anywhere)) {
      ids.push(...this.#plain(clean(text.slice(at, found.index))), this.specialIds.get(found[0]));
      at = found.index + found[0].length;
    }
    return [...ids, ...this.#plain(clean(text.slice(at)))];
  }

  /** The ids of a conversation; special tokens inside the messages stay text. @param {Message[]} messages @returns {number[]} */
  encodeChat(messages) {
    checkMessages(messages);
    if (typeof this.template !== 'string') throw tokenizerError('this model has no chat template: it is a base model, so give it text to continue');
    const said = messages.map((m) => m.content).join('');
    let mark = 0xe000;
    while (said.includes(String.fromCharCode(mark))) mark++;
    const sign = String.fromCharCode(mark);
    const marked = messages.map((m) => ({ ...m, content: m.content.replace(this.anywhere, (t) => t[0] + sign + t.slice(1)) }));
    return this.#split(this.#render(marked), (t) => t.replaceAll(sign, ''));
  }

  #render(messages) {
    try {
      this.compiled ??= new this.Template(this.template);
      return this.compiled.render({ messages, add_generation_prompt: true, bos_token: this.bos, eos_token: this.eos });
    } catch (e) {
      throw tokenizerError(`chat template: ${e.message}`);
    }
  }

  /** @param {number} id @returns {Uint8Array} the bytes that one token stands for */
  bytes(id) {
    const symbol = this.specialTexts.get(id) ?? this.library.id_to_token(id);
    if (symbol === undefined) throw tokenizerError(`token id ${id} is not in the vocabulary`);
    const bytes = Array.from(symbol, (c) => BYTE_OF.get(c));
    return bytes.includes(undefined) ? new TextEncoder().encode(symbol) : Uint8Array.from(/** @type {number[]} */ (bytes));
  }
}

const ROLES = ['system', 'user', 'assistant'];

/** @param {any} messages */
export function checkMessages(messages) {
  if (!Array.isArray(messages) || !messages.length) throw tokenizerError('messages must be a list with at least one record of role and content');
  messages.forEach((m, i) => {
    if (!ROLES.includes(m?.role)) throw tokenizerError(`messages[${i}]: role must be one of ${ROLES.join(', ')}`);
    if (typeof m.content !== 'string') throw tokenizerError(`messages[${i}]: content must be a string`);
    if (/\p{Surrogate}/u.test(m.content)) throw tokenizerError(`messages[${i}]: content holds half a surrogate pair`);
  });
}

/** Ids in, text out, never half a character. */
export class StreamDecoder {
  /** @param {Tokenizer} tokenizer */
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  }

  /** @param {number} id @returns {string} the text that is certain after one more token; may be empty */
  push(id) { return this.tokenizer.specialTexts.has(id) ? '' : this.utf8.decode(this.tokenizer.bytes(id), { stream: true }); }

  /** What is left at the end: U+FFFD where a character was never finished. */
  flush() { return this.utf8.decode(); }
}

/** Pass text through until one of several strings appears; the earliest match wins. */
export class StopStrings {
  /** @param {string | string[]} [stops] */
  constructor(stops = []) {
    this.stops = [stops].flat();
    this.held = '';
    this.found = false;
    if (!this.stops.every((s) => typeof s === 'string' && s)) throw parameterError('a stop string must be text with at least one character');
  }

  /** @param {string} text @returns {string} the text that is certain; sets `found` when a stop string is complete */
  push(text) {
    if (this.found) return '';
    this.held += text;
    const at = Math.min(...this.stops.map((s) => this.held.indexOf(s)).filter((i) => i >= 0));
    if (at < Infinity) {
      this.found = true;
      return this.#release(at, '');
    }
    const begun = (s) => { // characters at the end of what is held that could become s
      for (let n = Math.min(s.length - 1, this.held.length); n; n--) if (this.held.endsWith(s.slice(0, n))) return n;
      return 0;
    };
    return this.#release(this.held.length - Math.max(0, ...this.stops.map(begun)));
  }

  /** What was held back and never became a stop string. */
  flush() { return this.#release(this.held.length); }

  #release(n, rest = this.held.slice(n)) {
    const out = this.held.slice(0, n);
    this.held = rest;
    return out;
  }
}
