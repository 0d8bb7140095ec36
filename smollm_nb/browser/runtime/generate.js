/**
 * The generation loop, as smollm_nb/inference/generation.py has it: choose a token, show it, read it, repeat. It knows
 * a backend and a tokenizer, no thread and no page.
 */
import { overflowError, parameterError } from './errors.js';
import { describeLens, fitLens, readLens } from './lens.js';
import { Lookup } from './lookup.js';
import { StopStrings, StreamDecoder } from './text.js';

/** @type {Record<string, [number, number, boolean]>} low, high, whether an integer */
const LIMITS = {
  temperature: [0, 100, false],
  topK: [0, 2 ** 31 - 1, true],
  topP: [0, 1, false],
  minP: [0, 1, false],
  repetitionPenalty: [0.01, 100, false],
  maxTokens: [0, 2 ** 31, true],
};
const DEFAULTS = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  maxTokens: 128,
  seed: 0,
  stop: [],
  overflow: 'error',
  special: false,
  lens: false,
  lookup: true,
};
const OVERFLOW = ['error', 'stop', 'drop_oldest'];
const OWN = new Set([...Object.keys(DEFAULTS), 'signal', 'onToken']);

/**
 * @typedef {import('./smollm.js').SamplingOptions} Options
 * @typedef {import('./smollm.js').Token} Token
 * @typedef {import('./smollm.js').Result} Result
 */

/**
 * @param {any} seed
 * @returns {bigint}
 */
function readSeed(seed) {
  let n = -1n;
  try {
    if (['number', 'bigint', 'string'].includes(typeof seed) && seed !== '') n = BigInt(seed);
  } catch {
    /* said below */
  }
  if (n < 0n || n >= 1n << 64n) throw parameterError(`seed=${seed} must be a whole number in 0..2^64-1`);
  return n;
}

/**
 * @param {Options} options
 * @returns every option, checked
 */
export function readOptions(options) {
  const given = Object.entries(options ?? {}).filter(([, v]) => v !== undefined);
  const odd = given.find(([k]) => !OWN.has(k));
  if (odd) throw parameterError(`unknown option ${odd[0]}; there are ${[...OWN].join(', ')}`);
  const o = /** @type {any} */ ({ ...DEFAULTS, ...Object.fromEntries(given) });
  for (const [name, [low, high, integer]] of Object.entries(LIMITS)) {
    const v = o[name];
    const fits = typeof v === 'number' && v >= low && v <= high && (!integer || Number.isInteger(v));
    if (!fits) throw parameterError(`${name}=${v} must be a ${integer ? 'whole ' : ''}number in ${low}..${high}`);
  }
  if (!OVERFLOW.includes(o.overflow))
    throw parameterError(`overflow=${o.overflow} must be one of ${OVERFLOW.join(', ')}`);
  return { ...o, lens: readLens(o.lens), seed: readSeed(o.seed), stop: new StopStrings(o.stop).stops };
}

/**
 * Make prompt and answer fit the context.
 * @param {number[]} ids
 * @param {number} maxTokens
 * @param {number} context
 * @param {string} overflow
 */
export function fitContext(ids, maxTokens, context, overflow) {
  const total = ids.length + maxTokens;
  if (total <= context) return { prompt: ids, budget: maxTokens, cut: '' };
  if (overflow === 'drop_oldest' && maxTokens < context)
    return { prompt: ids.slice(total - context), budget: maxTokens, cut: 'prompt' };
  if (overflow === 'stop' && ids.length < context) return { prompt: ids, budget: context - ids.length, cut: 'answer' };
  throw overflowError(
    `a prompt of ${ids.length} tokens and an answer of ${maxTokens} do not fit a context of ${context}: ` +
      "shorten the prompt, lower maxTokens, or choose overflow: 'stop' or 'drop_oldest'",
  );
}

/**
 * @param {number[]} a
 * @param {number[]} b
 * @returns {number} tokens that both share from the start
 */
export function sharedPrefix(a, b) {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}

/** The text of an answer, as tokens make it certain. */
class Writing {
  /**
   * @param {import('./text.js').Tokenizer} tokenizer
   * @param {string[]} stop
   * @param {number[]} eos
   */
  constructor(tokenizer, stop, eos) {
    this.tokenizer = tokenizer;
    this.utf8 = new StreamDecoder(tokenizer);
    this.stops = new StopStrings(stop, [...tokenizer.specialIds.keys()]);
    this.eos = new Set(eos);
  }

  /**
   * @param {number} id
   * @returns {{text: string, reason: '' | 'stop' | 'eos'}} what became certain; why the answer ends with it
   */
  push(id) {
    const special = this.tokenizer.specialTexts.get(id);
    const text = this.stops.push(this.utf8.push(id)) + (special ? this.stops.push(special, true) : '');
    if (this.stops.found) return { text, reason: 'stop' };
    const ends = this.eos.has(id) || (special !== undefined && id === this.tokenizer.turnEnd());
    return { text, reason: ends ? 'eos' : '' };
  }

  /** What was held back. */
  flush() {
    return this.stops.push(this.utf8.flush()) + this.stops.flush();
  }
}

/** @typedef {{ids: Int32Array, probabilities: Float32Array}} Seen the likeliest tokens of layers, (layers, top) each */

/**
 * What the loop needs of a backend; `./model.js` is the one that there is.
 * @typedef {object} Backend
 * @property {number[]} tokens ids in its KV cache
 * @property {number} context positions of the KV cache
 * @property {{bos?: number | null, eos: number[], layers: number, vocab: number}} config
 * @property {(options: any) => void} startSampling
 * @property {(history: number[], row?: number) => number} sample the next token id; from that row of the last `verify`
 * @property {(id: number, pos: number) => void} decode
 * @property {(ids: number[], pos: number) => boolean} verify read a token and drafts of what follows it in one pass,
 *   for a row of scores behind each; false where there is no memory for these: nothing is read then
 * @property {(id: number, pos: number, lens: {layers: number[], top: number}) => Seen} look `decode`, and the lens
 * @property {(ids: number[], pos: number, shouldContinue: () => Promise<boolean>) => Promise<boolean>} prefill awaits
 *   `shouldContinue` between tiles; false when that said no
 */

/**
 * Generate an answer. The backend is left alone until `shouldContinue` says yes.
 * @param {Backend} backend
 * @param {import('./text.js').Tokenizer} tokenizer
 * @param {number[]} ids the prompt
 * @param {Options} options
 * @param {() => Promise<boolean>} shouldContinue awaited before each token and tile; false cancels
 * @returns {AsyncGenerator<Token, Result>}
 */
export async function* generate(backend, tokenizer, ids, options, shouldContinue) {
  const start = performance.now();
  const o = readOptions(options);
  const promptIds = ids.length ? ids : startToken(backend);
  const { prompt, budget, cut } = fitContext(promptIds, o.maxTokens, backend.context, o.overflow);
  const lens = o.lens && fitLens(o.lens, backend.config);
  const writing = new Writing(tokenizer, o.stop, backend.config.eos);
  const t = {
    prompt_tokens: 0,
    cached_tokens: 0,
    new_tokens: 0,
    passes: 0,
    prefill_s: 0,
    ttft_s: NaN,
    itl_s: /** @type {number[]} */ ([]),
  };
  const out = {
    text: '',
    ids: /** @type {number[]} */ ([]),
    prompt_ids: promptIds,
    finish_reason: budget ? '' : 'length',
    truncated: cut === 'prompt',
  };
  const history = () => (o.repetitionPenalty === 1 ? [] : [...prompt, ...out.ids]);
  const reading = new Reading(backend, prompt, budget, { lens, lookup: o.lookup }, t);
  let last = start;
  while (!out.finish_reason) {
    const seen = await reading.next(out.ids, shouldContinue);
    if (!seen) {
      out.finish_reason = 'cancelled';
      out.text += writing.flush();
      break;
    }
    if (!out.ids.length) backend.startSampling(o);
    const id = backend.sample(history(), reading.row);
    reading.chosen(id);
    const { text, reason } = writing.push(id);
    out.ids.push(id);
    out.finish_reason = reason || (out.ids.length === budget ? 'length' : '');
    if (out.finish_reason === 'length') out.truncated ||= cut === 'answer';
    const certain = out.finish_reason && reason !== 'stop' ? text + writing.flush() : text;
    out.text += certain;
    const now = performance.now();
    if (t.new_tokens++) t.itl_s.push((now - last) / 1000);
    else t.ttft_s = (now - start) / 1000;
    last = now;
    const token = { index: t.new_tokens - 1, id, text: certain, elapsed_s: (now - start) / 1000 };
    yield lens ? { ...token, lens: describeLens(tokenizer, id, lens.layers, /** @type {Seen} */ (seen)) } : token;
  }
  return /** @type {Result} */ ({ ...out, timings: t });
}

/** What an empty prompt means: the beginning of a text. */
function startToken(backend) {
  if (backend.config.bos == null)
    throw parameterError(
      'the prompt is empty, and this model has no begin-of-text token; give it at least one character',
    );
  return [backend.config.bos];
}

/** Where the scores for the next token come from: the prompt's rest first, then one token at a time, or several. */
class Reading {
  row = -1; // of the last `verify`, where the scores are; -1 after other passes
  #drafts = /** @type {number[]} */ ([]); // of the last pass
  #known = false; // whether the token that was chosen is one of them, and so is read
  #lookup = /** @type {Lookup | null} */ (null); // from the second token on

  /**
   * @param {Backend} backend
   * @param {number[]} prompt
   * @param {number} budget tokens that may be chosen
   * @param {{lens: {layers: number[], top: number} | null, lookup: boolean}} how
   * @param {any} timings to be filled in
   */
  constructor(backend, prompt, budget, { lens, lookup }, timings) {
    this.backend = backend;
    this.prompt = prompt;
    this.budget = budget;
    this.lens = lens;
    this.drafts = lookup && !lens; // the lens looks at a single token
    this.timings = timings;
  }

  /**
   * @param {number[]} ids that were chosen
   * @param {() => Promise<boolean>} shouldContinue
   * @returns {Promise<boolean | Seen>} the lens where it is on; false when cancelled
   */
  async next(ids, shouldContinue) {
    if (!(await shouldContinue())) return false;
    if (!ids.length) return this.#readPrompt(shouldContinue);
    return this.#known || this.#readNext(ids);
  }

  /** The lookup learns what was chosen, and at the end of a pass what became of its drafts. @param {number} id */
  chosen(id) {
    if (!this.#lookup) return;
    this.#lookup.extend([id]);
    this.#known = this.#drafts[this.row] === id;
    if (this.#known) this.row++;
    else this.#lookup.note(this.#drafts.length, this.row);
  }

  async #readPrompt(shouldContinue) {
    const { backend, prompt, lens } = this;
    const last = prompt.length - 1;
    const shared = Math.min(sharedPrefix(backend.tokens, prompt), last);
    const begin = performance.now();
    // the last of the prompt comes after the others where a lens looks at it
    const many = prompt.slice(shared, lens ? last : undefined);
    let seen = /** @type {boolean | Seen} */ (!many.length || (await backend.prefill(many, shared, shouldContinue)));
    if (seen && lens) seen = backend.look(prompt[last], last, lens);
    Object.assign(this.timings, {
      prefill_s: (performance.now() - begin) / 1000,
      prompt_tokens: prompt.length,
      cached_tokens: shared,
      passes: 1,
    });
    return seen;
  }

  /** Read the last token, and a draft of what follows where that pays. @param {number[]} ids */
  #readNext(ids) {
    const { backend, prompt, lens } = this;
    const id = /** @type {number} */ (ids.at(-1));
    const last = prompt.length + ids.length - 1;
    this.timings.passes++;
    if (lens) return backend.look(id, last, lens);
    if (this.drafts) this.#lookup ??= new Lookup([...prompt, ...ids]);
    const room = Math.min(this.budget - ids.length, backend.context - last) - 1;
    const draft = this.#lookup?.draft(room) ?? [];
    const verified = draft.length > 0 && backend.verify([id, ...draft], last);
    if (!verified) backend.decode(id, last);
    this.#drafts = verified ? draft : [];
    this.row = verified ? 0 : -1;
    return true;
  }
}
