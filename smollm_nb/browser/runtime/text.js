/**
 * Text to ids and back by npm's tokenizers library, chats by npm's jinja; never half a character, and special tokens
 * only where they are asked for.
 */
import { parameterError, tokenizerError } from './errors.js';

/**
 * How byte-level BPE writes each byte as one visible character (the table of GPT-2).
 * @returns {Map<string, number>} symbol → byte
 */
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

/**
 * The library splits digits by `\d`, the original by all of Unicode's numbers.
 * @param {any} p a pre-tokenizer
 * @returns {any} one that both read alike
 */
function exactDigits(p) {
  if (p?.type === 'Sequence') return { ...p, pretokenizers: p.pretokenizers.map(exactDigits) };
  if (p?.type !== 'Digits') return p;
  return {
    type: 'Split',
    pattern: { Regex: p.individual_digits ? '\\p{N}' : '\\p{N}+' },
    behavior: 'Isolated',
    invert: false,
  };
}

/**
 * Undo the bundle's short form: a token that a merge spells is not listed, such tokens are numbered in the order of the
 * merges. They go straight into the library's tables: by way of the whole `tokenizer.json` it makes each of them out of
 * several copies, which takes twice as long.
 * @param {{tokens_to_ids: Map<string, number>, vocab: string[], bpe_ranks: Map<string, number>}} model
 * @param {string[]} merges
 * @param {number} first number
 */
function addMerges({ tokens_to_ids: ids, vocab, bpe_ranks: ranks }, merges, first) {
  merges.forEach((merge, i) => {
    const [a, b] = merge.split(' ');
    const token = a + b;
    ids.set(token, first + i);
    vocab[first + i] = token;
    ranks.set(JSON.stringify([a, b]), i);
  });
}

const escape = (s) => s.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
const content = (t) => (typeof t === 'object' && t ? t.content : t) ?? null;

/**
 * A decoder's parts.
 * @param {any} d
 * @returns {any[]}
 */
const decoderParts = (d) => (d?.type === 'Sequence' ? d.decoders.flatMap(decoderParts) : [d]);

/**
 * The ids that a tokenizer puts before and behind each text, such as a begin-of-text token.
 * @param {any} p a post-processor
 * @returns {{before: number[], behind: number[]}}
 */
function aroundText(p) {
  const none = { before: [], behind: [] };
  if (p?.type === 'Sequence') {
    return p.processors
      .map(aroundText)
      .reduce((a, b) => ({ before: [...b.before, ...a.before], behind: [...a.behind, ...b.behind] }), none);
  }
  if (p?.type === 'BertProcessing' || p?.type === 'RobertaProcessing')
    return { before: [p.cls[1]], behind: [p.sep[1]] };
  if (p?.type !== 'TemplateProcessing') return none;
  const ids = (items) => items.flatMap(({ SpecialToken: t }) => p.special_tokens[t.id].ids);
  const at = p.single.findIndex((item) => item.Sequence);
  return { before: ids(p.single.slice(0, at)), behind: ids(p.single.slice(at + 1)) };
}

/** @typedef {import('./smollm.js').Message} Message */

export class Tokenizer {
  /**
   * @param {typeof import('./vendor/tokenizers.js').Tokenizer} Library
   * @param {typeof import('./vendor/jinja.js').Template | null} Template
   * @param {any} json tokenizer.json
   * @param {any} config tokenizer_config.json
   * @param {string} [template]
   */
  constructor(Library, Template, json, config, template) {
    const decoders = decoderParts(json.decoder).map((d) => d?.type ?? 'none');
    if (decoders.join() !== 'ByteLevel')
      throw tokenizerError(
        `this page reads byte-level tokenizers alone, and this one has the decoder ${decoders}: ` +
          'run the model in Python',
      );
    const special = (json.added_tokens ?? []).filter((t) => t.special);
    this.special = new Map(special.map((t) => [t.content, t]));
    this.specialIds = new Map(special.map((t) => [t.content, t.id]));
    this.specialTexts = new Map(special.map((t) => [t.id, t.content]));
    const { vocab_from_merges: first, ...rest } = json;
    const merges = first === undefined ? [] : rest.model.merges;
    if (first !== undefined) rest.model = { ...rest.model, merges: [] };
    const plain = {
      ...rest,
      added_tokens: json.added_tokens?.filter((t) => !t.special) ?? [],
      pre_tokenizer: exactDigits(json.pre_tokenizer),
    };
    this.library = new Library(plain, config); // knows no special token, so none can slip in
    addMerges(this.library.model, merges, first);
    const named = json.special_tokens ?? config; // the bundle names them all, wherever they stood
    const [before, behind] = json.around ?? [];
    this.around = before ? { before, behind } : aroundText(json.post_processor);
    this.bos = content(named.bos_token);
    this.eos = content(named.eos_token);
    this.template = template ?? config.chat_template;
    this.Template = Template;
    this.compiled = undefined; // the template, once somebody chats
    /** @type {number | null | undefined} the id that closes a turn, null if none does; once it was looked for */
    this.end = undefined;
    const longestFirst = [...this.specialIds.keys()].sort((a, b) => b.length - a.length);
    this.anywhere = new RegExp(longestFirst.map(escape).join('|') || '(?!)', 'g');
  }

  /**
   * @param {string} text
   * @param {boolean} [special] read special tokens that stand in the text as tokens
   * @returns {number[]}
   */
  encode(text, special = false) {
    if (typeof text !== 'string') throw tokenizerError(`text must be a string, not ${typeof text}`);
    if (/\p{Surrogate}/u.test(text))
      throw tokenizerError('text holds half a surrogate pair: it was cut or decoded wrongly before');
    return special ? this.#split(text, (t) => t) : this.#plain(text);
  }

  #plain(text) {
    return text ? this.library.encode(text, { add_special_tokens: false }).ids : [];
  }

  /**
   * Special tokens as tokens, all between them as text; some swallow the white space beside them.
   * @param {string} text
   * @param {(between: string) => string} clean
   * @returns {number[]}
   */
  #split(text, clean) {
    const ids = [];
    let at = 0;
    let before;
    const between = (end, behind) => {
      let piece = clean(text.slice(at, end));
      if (before?.rstrip) piece = piece.trimStart();
      if (behind?.lstrip) piece = piece.trimEnd();
      ids.push(...this.#plain(piece));
    };
    for (const found of text.matchAll(this.anywhere)) {
      const token = this.special.get(found[0]);
      between(found.index, token);
      ids.push(token.id);
      at = found.index + found[0].length;
      before = token;
    }
    between(text.length, undefined);
    return ids;
  }

  /**
   * The ids of a conversation; special tokens inside the messages stay text.
   * @param {Message[]} messages
   * @param {boolean} [opened] whether the assistant's turn begins at the end
   * @returns {number[]}
   */
  encodeChat(messages, opened = true) {
    checkMessages(messages);
    if (typeof this.template !== 'string')
      throw tokenizerError('this model has no chat template: it is a base model, so give it text to continue');
    const said = JSON.stringify(messages);
    let mark = 0xe000;
    while (said.includes(String.fromCharCode(mark))) mark++;
    const sign = String.fromCharCode(mark);
    const hidden = (v) => {
      // in whatever a message holds
      if (typeof v === 'string') return v.replace(this.anywhere, (t) => t[0] + sign + t.slice(1));
      if (Array.isArray(v)) return v.map(hidden);
      return v && typeof v === 'object'
        ? Object.fromEntries(Object.entries(v).map(([k, x]) => [hidden(k), hidden(x)]))
        : v;
    };
    const marked = messages.map((m) => ({ ...hidden(m), role: m.role }));
    return this.#split(this.#render(marked, opened), (t) => t.replaceAll(sign, ''));
  }

  /**
   * @param {Message[]} messages
   * @param {boolean} opened
   * @returns {string}
   */
  #render(messages, opened) {
    try {
      this.compiled ??= new /** @type {typeof import('./vendor/jinja.js').Template} */ (this.Template)(this.template);
      return this.compiled.render({
        messages,
        add_generation_prompt: opened,
        bos_token: this.bos ?? '',
        eos_token: this.eos ?? '',
      });
    } catch (e) {
      throw tokenizerError(`chat template: ${e.message.split('\n')[0]}`);
    }
  }

  /**
   * @returns {number | undefined} the special token that closes an assistant's message in the chat template, as in
   *   generate.py
   */
  turnEnd() {
    if (this.end === undefined) this.end = this.#findTurnEnd();
    return this.end ?? undefined;
  }

  /** @returns {number | null} */
  #findTurnEnd() {
    const said = 'forty-two';
    const talk = [
      ['user', 'hello'],
      ['assistant', said],
      ['user', 'hello'],
    ];
    let ids;
    let words = /** @type {number[]} */ ([]);
    try {
      ids = this.encodeChat(
        talk.map(([role, content]) => /** @type {Message} */ ({ role, content })),
        false,
      );
    } catch {
      // no template, or one that does not like this talk
      return null;
    }
    for (const id of ids) {
      if (!this.specialTexts.has(id)) words.push(id);
      else if (this.#text(words).toLowerCase().includes(said)) return id;
      else words = [];
    }
    return null;
  }

  /** @param {number[]} ids */
  #text(ids) {
    return new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => [...this.bytes(id)])));
  }

  /**
   * @param {number} id
   * @returns {string} one token alone: U+FFFD where it is a part of a character, "" where no token has the id
   */
  tokenText(id) {
    return this.specialTexts.get(id) ?? (this.library.id_to_token(id) === undefined ? '' : this.#text([id]));
  }

  /** @returns {number[]} the token that ends a text, where the tokenizer names one */
  ends() {
    if (!this.eos) return [];
    const id = this.specialIds.get(this.eos);
    const ids = id === undefined ? this.encode(this.eos, true) : [id];
    return ids.length === 1 ? ids : [];
  }

  /**
   * The ids of a text to continue, with those that this tokenizer puts before and behind every text.
   * @param {string} text
   * @param {boolean} [special] read special tokens that stand in it as tokens
   * @returns {number[]}
   */
  encodePrompt(text, special = false) {
    return [...this.around.before, ...this.encode(text, special), ...this.around.behind];
  }

  /**
   * Ids that no token has: an embedding may be larger than its vocabulary. Raises a TokenizerError where a token has no
   * place in it.
   * @param {number} rows of the model's embedding
   * @returns {number[]}
   */
  missing(rows) {
    const { tokens_to_ids: listed, vocab } = this.library.model;
    const last = Math.max(vocab.length - 1, ...this.specialTexts.keys());
    if (last >= rows)
      throw tokenizerError(
        `token id ${last} has no row in the model's embedding of ${rows}: the tokenizer is another model's`,
      );
    const unlisted = [...this.specialIds.keys()].filter((text) => !listed.has(text)).length;
    if (listed.size + unlisted === rows) return []; // at once: looking at each takes milliseconds
    return Array.from({ length: rows }, (_, id) => id).filter(
      (id) => vocab[id] === undefined && !this.specialTexts.has(id),
    );
  }

  /**
   * @param {number} id
   * @returns {Uint8Array} the bytes that one token stands for
   */
  bytes(id) {
    const symbol = this.specialTexts.get(id) ?? this.library.id_to_token(id);
    if (symbol === undefined) throw tokenizerError(`token id ${id} is not in the vocabulary`);
    const bytes = Array.from(symbol, (c) => BYTE_OF.get(c));
    return bytes.includes(undefined)
      ? new TextEncoder().encode(symbol)
      : Uint8Array.from(/** @type {number[]} */ (bytes));
  }
}

const ROLES = ['system', 'user', 'assistant'];

/** @param {any} messages */
export function checkMessages(messages) {
  if (!Array.isArray(messages) || !messages.length)
    throw tokenizerError('messages must be a list with at least one record of role and content');
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

  /**
   * @param {number} id
   * @returns {string} the text that is certain after one more token; may be empty
   */
  push(id) {
    return this.tokenizer.specialTexts.has(id) ? '' : this.utf8.decode(this.tokenizer.bytes(id), { stream: true });
  }

  /** What is left at the end: U+FFFD where a character was never finished. */
  flush() {
    return this.utf8.decode();
  }
}

/**
 * Pass text through until one of several strings appears; the earliest match wins, as in
 * smollm_nb/inference/generation.py.
 */
export class StopStrings {
  /**
   * @param {string | string[]} [stops]
   * @param {string[]} [special] texts of special tokens: where a stop string holds one, they are looked at too
   */
  constructor(stops = [], special = []) {
    this.stops = [stops].flat();
    if (!this.stops.every((s) => typeof s === 'string' && s))
      throw parameterError('a stop string must be text with at least one character');
    this.withSpecial = new Set(this.stops.filter((s) => special.some((t) => s.includes(t))));
    this.found = false;
    this.held = ''; // what may be the beginning of a stop string
    this.shown = /** @type {boolean[]} */ ([]); // which of its characters are text
  }

  /**
   * @param {string} text
   * @param {boolean} [special] whether it is a special token, which is seen and not passed through
   * @returns {string} the text that is certain; sets `found` when a stop string is complete
   */
  push(text, special = false) {
    if (this.found) return '';
    if (!this.stops.length) return special ? '' : text;
    this.held += text;
    for (let i = 0; i < text.length; i++) this.shown.push(!special);
    const all = Array.from(this.shown.keys());
    const visible = all.filter((i) => this.shown[i]);
    const plain = visible.map((i) => this.held[i]).join('');
    let begun = this.held.length;
    let ended = Infinity; // where stop strings may have begun, and where the first whole one did
    for (const stop of this.stops) {
      const [seen, at] = this.withSpecial.has(stop) ? [this.held, all] : [plain, visible];
      const whole = seen.indexOf(stop);
      const part = beginning(stop, seen);
      if (whole >= 0) ended = Math.min(ended, at[whole]);
      if (part) begun = Math.min(begun, at[seen.length - part]);
    }
    if (ended === Infinity) return this.#release(begun);
    this.found = true;
    const out = this.#release(ended);
    this.held = '';
    return out;
  }

  /** What was held back and never became a stop string. */
  flush() {
    return this.#release(this.held.length);
  }

  /** Let go of the first n characters that are held. @param {number} n */
  #release(n) {
    const gone = this.held.slice(0, n);
    const shown = this.shown.splice(0, n);
    this.held = this.held.slice(n);
    return Array.from(shown.keys())
      .filter((i) => shown[i])
      .map((i) => gone[i])
      .join('');
  }
}

/**
 * @param {string} stop
 * @param {string} text
 * @returns {number} characters at the end of the text that a stop string begins with, fewer than all
 */
function beginning(stop, text) {
  for (let n = Math.min(stop.length - 1, text.length); n; n--) if (text.endsWith(stop.slice(0, n))) return n;
  return 0;
}
