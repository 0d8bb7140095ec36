/**
 * The C kernel (csrc/smollm.h) in WebAssembly: its memory, its structs, its calls. Everything here is synchronous and
 * blocks its thread.
 */
import { engineError, nonFiniteError } from './errors.js';
import { MOST as MOST_DRAFTS } from './lookup.js';

const PAGE = 65536;
const STACK = 65536;
const ALIGN = 64;
const MAX_PARTS = 4;
const PROBE_PAGES = 64; // more than any build needs for static data and a stack
const SIZEOF = { shape: 56, part: 40, sampling: 40, rng: 16 };
export const TILE = 64; // tokens that a prefill reads between two chances to stop
const NO_LOGITS = 0;
const LAST_LOGITS = 1;
const ALL_LOGITS = 2;
const NOT_FINITE = [-15, -16]; // SM_E_SCORES, SM_E_HIDDEN
const MOST_LIKELIEST = 64; // SM_MAX_LIKELIEST
const STREAM = 54n; // of PCG32, as smollm_nb/inference/sampling.py has it

const align = (n, to = ALIGN) => Math.ceil(n / to) * to;

/** @typedef {import('./q4.js').Config} Config @typedef {import('./q4.js').Part} Part */
/**
 * @typedef {{temperature: number, topK: number, topP: number, minP: number, repetitionPenalty: number, seed: bigint}}
 *   Sampling
 */

/** What to say where a browser does not let the kernel run. @param {any} e */
function refused(e) {
  const words = e.message.split('\n')[0].slice(0, 100);
  const policy = /CSP|Content.Security.Policy|unsafe-eval/i.test(e.message);
  const way = policy
    ? "the page's Content-Security-Policy must allow 'wasm-unsafe-eval' in script-src"
    : 'use a newer one';
  return engineError(`this browser does not compile the kernel: ${way} (${words})`);
}

/**
 * @param {Uint8Array} bytes of a build of the kernel
 * @returns {Promise<WebAssembly.Module>}
 */
export async function compile(bytes) {
  try {
    return await WebAssembly.compile(/** @type {Uint8Array<ArrayBuffer>} */ (bytes));
  } catch (e) {
    throw refused(e);
  }
}

/**
 * @param {WebAssembly.Module} module
 * @param {number} pages
 * @param {boolean} shared
 * @param {number} [maximum] pages that it may grow to
 */
async function instantiate(module, pages, shared, maximum = pages) {
  let memory;
  try {
    memory = new WebAssembly.Memory({ initial: pages, maximum, ...(shared && { shared }) });
  } catch {
    throw engineError(
      `the browser gives no ${Math.ceil((pages * PAGE) / 1e6)} MB of memory: ` +
        'close other tabs, or load with a shorter context',
    );
  }
  try {
    const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
    return { memory, exports: /** @type {any} */ (exports) };
  } catch (e) {
    // WebKit asks its policy only here
    throw refused(e);
  }
}

/**
 * Write an sm_shape.
 * @param {ArrayBufferLike} buffer
 * @param {number} at
 * @param {Config} c
 * @param {number} context
 * @param {number} threads
 */
function putShape(buffer, at, c, context, threads) {
  const sizes = [
    c.vocab,
    c.hidden,
    c.mlp,
    c.layers,
    c.heads,
    c.kvHeads,
    c.headDim,
    context,
    Number(c.tied),
    threads,
    TILE,
    1, // sequence
  ];
  new Int32Array(buffer, at, sizes.length).set(sizes);
  new Float32Array(buffer, at + 4 * sizes.length, 2).set([c.ropeTheta, c.rmsEps]);
}

/**
 * Where everything lies: [static data, first stack][the workers' stacks][weights][buffers of calls][arena]
 * @param {number} base `__heap_base`
 * @param {number} threads
 * @param {number} weights bytes
 * @param {Config} config
 * @param {number} context
 * @param {number} arena bytes
 */
function layout(base, threads, weights, config, context, arena) {
  const at = {
    stacks: align(base),
    weights: 0,
    shape: 0,
    parts: 0,
    sampling: 0,
    rng: 0,
    model: 0,
    ids: 0,
    history: 0,
    arena: 0,
    end: 0,
  };
  at.weights = at.stacks + STACK * (threads - 1);
  at.shape = align(at.weights + weights);
  at.sampling = at.shape + align(SIZEOF.shape);
  at.rng = at.sampling + align(SIZEOF.sampling);
  at.model = at.rng + align(SIZEOF.rng);
  at.parts = at.model + ALIGN;
  at.ids = at.parts + align((9 * config.layers + 3) * MAX_PARTS * SIZEOF.part);
  at.history = at.ids + align(4 * TILE);
  at.arena = at.history + align(4 * (context + 1));
  at.end = at.arena + arena;
  return at;
}

/**
 * What the lens of one token takes: the residual stream, then logits and likeliest tokens of up to all layers.
 * @param {Config} config
 * @param {number} base
 */
function lensLayout({ layers, hidden, vocab }, base) {
  const rows = layers + 1;
  const residual = align(base);
  const logits = residual + align(4 * rows * hidden);
  const ids = logits + align(4 * rows * vocab);
  const probabilities = ids + align(4 * rows * MOST_LIKELIEST);
  return { residual, logits, ids, probabilities, end: probabilities + align(4 * rows * MOST_LIKELIEST) };
}

/** The end of what the scores behind a token and its drafts take, (1 + MOST_DRAFTS, vocab). */
const draftsEnd = ({ vocab }, base) => base + 4 * vocab * (1 + MOST_DRAFTS);
const pagesTo = (end) => Math.ceil(end / PAGE);

export class Kernel {
  config = /** @type {Config} */ (/** @type {any} */ (null));
  module = /** @type {WebAssembly.Module} */ (/** @type {any} */ (null));
  memory = /** @type {WebAssembly.Memory} */ (/** @type {any} */ (null));
  exports = /** @type {any} */ (null);
  at = /** @type {ReturnType<typeof layout>} */ (/** @type {any} */ (null));
  context = 0; // positions
  threads = 0;
  weightBytes = 0;
  arenaBytes = 0;
  kvBytes = 0;
  bytesPerToken = 0;
  model = 0; // where the kernel has it

  /**
   * Make the memory that weights can stream into.
   * @param {WebAssembly.Module} module
   * @param {{config: Config, context: number, threads: number, weightBytes: number}} o
   */
  static async open(module, o) {
    const shared = o.threads > 1;
    const probe = await instantiate(module, PROBE_PAGES, shared); // asks for the size of the arena, before there is one
    const base = probe.exports.__heap_base.value;
    putShape(probe.memory.buffer, align(base), o.config, o.context, o.threads);
    const arena = probe.exports.sm_arena_bytes(align(base));
    const kernel = new Kernel();
    if (arena < 0) throw engineError(kernel.#words(arena, probe));
    const at = layout(base, o.threads, o.weightBytes, o.config, o.context, arena);
    const more = align(at.end);
    const most = Math.max(lensLayout(o.config, more).end, draftsEnd(o.config, more));
    const { memory, exports } = await instantiate(module, pagesTo(at.end), shared, pagesTo(most));
    return Object.assign(kernel, {
      module,
      memory,
      exports,
      at,
      ...o,
      arenaBytes: arena,
      kvBytes: probe.exports.sm_kv_bytes(align(base)),
    });
  }

  /** @returns {Uint8Array} (weightBytes,) the file's place, for the loaders to fill */
  get weights() {
    return new Uint8Array(this.memory.buffer, this.at.weights, this.weightBytes);
  }

  get variant() {
    return this.#text(this.exports.sm_variant());
  }

  /** The top of a worker's stack. @param {number} index 1..threads-1 */
  stackTop(index) {
    return this.at.stacks + STACK * index;
  }

  /**
   * Give the kernel the file. Workers may then call `sm_worker(kernel.model, index)`.
   * @param {Config} config
   * @param {Part[]} parts
   */
  create(config, parts) {
    const { at, exports } = this;
    const buffer = this.memory.buffer;
    if (parts.length > (9 * this.config.layers + 3) * MAX_PARTS)
      throw engineError('the weights hold more parts than the engine reads: export the bundle again');
    putShape(buffer, at.shape, config, this.context, this.threads);
    const view = new DataView(buffer);
    parts.forEach((p, i) => {
      const here = at.parts + SIZEOF.part * i;
      [p.tensor, p.layer, p.begin, p.end, p.format, 0].forEach((v, k) => view.setInt32(here + 4 * k, v, true));
      view.setBigUint64(here + 24, BigInt(p.offset), true);
      view.setBigUint64(here + 32, BigInt(p.bytes), true);
    });
    this.#check(
      exports.sm_create(
        at.shape,
        at.parts,
        parts.length,
        at.weights,
        this.weightBytes,
        at.arena,
        this.arenaBytes,
        at.model,
      ),
    );
    this.model = view.getInt32(at.model, true);
    this.config = config;
    // an embedding that is no head gives one row
    this.bytesPerToken = parts.reduce((n, p) => n + (config.tied || p.tensor !== 0 ? p.bytes : 0), 0);
  }

  /** Raise unless this build computes what plain C does. */
  selfTest() {
    this.#check(this.exports.sm_self_test());
  }

  /** Workers that have arrived. */
  get workers() {
    return this.exports.sm_workers(this.model);
  }

  /** The kernel counts in 32 bits, and would take a larger number for another id. @param {number[]} ids */
  #checkIds(ids) {
    const { vocab } = this.config;
    const odd = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocab);
    if (odd !== undefined) throw engineError(`token id ${odd} is not in 0..${vocab - 1}`);
  }

  /**
   * Read at most `TILE` ids.
   * @param {number[]} ids
   * @param {number} pos of the first
   * @param {boolean} last whether logits are wanted
   */
  prefill(ids, pos, last) {
    this.#checkIds(ids);
    new Int32Array(this.memory.buffer, this.at.ids, ids.length).set(ids);
    this.#check(this.exports.sm_prefill(this.model, this.at.ids, ids.length, pos, last ? LAST_LOGITS : NO_LOGITS, 0));
  }

  /**
   * Read one token; logits are wanted.
   * @param {number} id
   * @param {number} pos
   */
  decode(id, pos) {
    this.#checkIds([id]);
    this.#check(this.exports.sm_decode(this.model, id, pos, 0));
  }

  /** Where the lens and the scores behind drafts lie, one at a time. */
  get #more() {
    return align(this.at.end);
  }

  /**
   * Memory up to `end`, which nobody pays for before it is wanted.
   * @param {number} end
   * @returns {boolean} whether the browser gives it
   */
  #grow(end) {
    const pages = pagesTo(end) - this.memory.buffer.byteLength / PAGE;
    try {
      if (pages > 0) this.memory.grow(pages); // where it is not shared, that detaches the buffer
    } catch {
      return false;
    }
    return true;
  }

  /**
   * Read a token and at most `MOST_DRAFTS` drafts behind it in one pass; `sample` takes the scores behind each.
   * @param {number[]} ids
   * @param {number} pos
   * @returns {boolean} false where there is no memory for the scores; nothing is read then
   */
  verify(ids, pos) {
    this.#checkIds(ids);
    if (!this.#grow(draftsEnd(this.config, this.#more))) return false;
    new Int32Array(this.memory.buffer, this.at.ids, ids.length).set(ids);
    this.#check(this.exports.sm_prefill(this.model, this.at.ids, ids.length, pos, ALL_LOGITS, this.#more));
    return true;
  }

  /**
   * Read one token as `decode` does, and see what the model would say after it if it ended after some of its layers.
   * @param {number} id
   * @param {number} pos
   * @param {number[]} layers of 0..config.layers, rising
   * @param {number} top likeliest tokens of each
   * @returns {{ids: Int32Array, probabilities: Float32Array}} (layers, top) each
   */
  look(id, pos, layers, top) {
    this.#checkIds([id]);
    const { config, exports, model } = this;
    const at = lensLayout(config, this.#more);
    if (!this.#grow(at.end))
      throw engineError(
        `the browser gives no ${Math.ceil((at.end - this.#more) / 1e6)} MB of memory for what happens inside: ` +
          'close other tabs, or answer without it',
      );
    const { buffer } = this.memory;
    const count = (config.layers + 1) * config.hidden;
    new Int32Array(buffer, this.at.ids, 1)[0] = id;
    this.#check(exports.sm_trace(model, this.at.ids, 1, pos, NO_LOGITS, 0, at.residual, count));
    const rows = layers.at(-1) === config.layers ? layers : [...layers, config.layers]; // the last gives the scores
    const residual = new Float32Array(buffer, at.residual, count);
    rows.forEach((layer, i) =>
      residual.copyWithin(i * config.hidden, layer * config.hidden, (layer + 1) * config.hidden),
    );
    this.#check(exports.sm_head(model, at.residual, rows.length, at.logits));
    this.#scores.set(new Float32Array(buffer, at.logits + 4 * config.vocab * (rows.length - 1), config.vocab));
    this.#check(exports.sm_likeliest(model, at.logits, layers.length, top, at.ids, at.probabilities));
    const size = layers.length * top;
    return {
      ids: new Int32Array(buffer, at.ids, size).slice(),
      probabilities: new Float32Array(buffer, at.probabilities, size).slice(),
    };
  }

  /** @returns {Float32Array} (vocab,) a copy of the scores after the last call that wanted them */
  logits() {
    return this.#scores.slice();
  }

  /** Keep the first n tokens. @param {number} n */
  forget(n) {
    this.#check(this.exports.sm_forget(this.model, n));
  }

  /** Start the random numbers of one answer, and write down how to choose. @param {Sampling} s */
  startSampling(s) {
    const view = new DataView(this.memory.buffer);
    [s.temperature, s.topP, s.minP, s.repetitionPenalty].forEach((v, i) =>
      view.setFloat64(this.at.sampling + 8 * i, v, true),
    );
    view.setInt32(this.at.sampling + 32, Math.min(s.topK, this.config.vocab), true);
    view.setInt32(this.at.sampling + 36, 0, true);
    this.exports.sm_rng_seed(this.at.rng, BigInt.asIntN(64, s.seed), STREAM);
  }

  /** The scores themselves, in the kernel's memory. @returns {Float32Array} (vocab,) */
  get #scores() {
    return this.#row(this.exports.sm_logits(this.model));
  }

  /** @param {number} at */
  #row(at) {
    return new Float32Array(this.memory.buffer, at, this.config.vocab);
  }

  /**
   * Choose a token by the written rule.
   * @param {number[]} history ids that the repetition penalty counts
   * @param {number[]} never ids that are not chosen
   * @param {number} row of the last `verify`; -1 for the scores after any other call
   */
  sample(history, never = [], row = -1) {
    const scores = row < 0 ? this.#scores : this.#row(this.#more + 4 * this.config.vocab * row);
    for (const id of never) scores[id] = -Infinity;
    new Int32Array(this.memory.buffer, this.at.history, history.length).set(history);
    return this.#check(
      this.exports.sm_sample(
        this.model,
        scores.byteOffset,
        this.at.sampling,
        this.at.rng,
        history.length ? this.at.history : 0,
        history.length,
      ),
    );
  }

  close() {
    if (this.model) this.exports.sm_close(this.model);
    this.model = 0;
  }

  /**
   * @param {number} code
   * @returns {number}
   */
  #check(code) {
    if (NOT_FINITE.includes(code)) {
      throw nonFiniteError(
        "the model's scores hold NaN or infinity, so no token can be chosen: load the model again, or another one",
      );
    }
    if (code < 0) throw engineError(`the kernel refused a call: ${this.#words(code, this)}`);
    return code;
  }

  #words(code, { memory, exports }) {
    return this.#text(exports.sm_error(code), memory);
  }

  #text(at, memory = this.memory) {
    const bytes = new Uint8Array(memory.buffer);
    const end = bytes.indexOf(0, at);
    return new TextDecoder().decode(bytes.slice(at, end));
  }
}
