/** A loaded model: the kernel, its threads, the ids in its cache. What generate.js drives. */
import { engineError, fromPlain, parameterError } from './errors.js';
import { spawn, tick } from './helpers.js';
import { TILE } from './kernel.js';
import { sha256 } from './sha256.js';

/** @typedef {import('./helpers.js').Helper} Helper */

const ARRIVE_MS = 5000; // within which the threads must be there
const GREEDY = { temperature: 0, topP: 1, minP: 0, repetitionPenalty: 1, topK: 0, seed: 0n };
const DECODED = 3; // tokens of the self-test that are decoded: the hash of the logits has said the rest by then

/**
 * Start the kernel's threads 1..n-1 as far as they get without a model.
 * @param {import('./kernel.js').Kernel} kernel
 * @returns {{all: Helper[], ready: Promise<any>}}
 */
export function startThreads(kernel) {
  const { module, memory } = kernel;
  const all = Array.from({ length: kernel.threads - 1 }, () => spawn('./compute.js'));
  all.forEach((thread, i) => thread.postMessage({ module, memory, stackTop: kernel.stackTop(i + 1), index: i + 1 }));
  const ready = Promise.all(
    all.map(
      (thread, i) =>
        new Promise((resolve, reject) => {
          // there are ways to run without it
          thread.onerror = (e) => reject(engineError(`thread ${i + 1} did not start: ${e.message}`));
          thread.onmessage = ({ data }) => (data.error ? thread.onerror(fromPlain(data.error)) : resolve(thread));
        }),
    ),
  );
  return { all, ready };
}

export class Model {
  /** @type {number[]} ids whose keys and values are in the cache, in order */
  tokens = [];
  /** @type {number[]} ids that no token has: an embedding may be larger than its vocabulary */
  missing = [];

  /**
   * @param {import('./kernel.js').Kernel} kernel that has its file
   * @param {Helper[]} threads
   */
  constructor(kernel, threads) {
    this.kernel = kernel;
    this.threads = threads;
    this.config = kernel.config;
    this.context = kernel.context;
  }

  /** Let the threads in; raises an error if one does not come. */
  async gather() {
    const { kernel, threads } = this;
    const begin = performance.now();
    threads.forEach((t) => t.postMessage({ model: kernel.model }));
    while (kernel.workers < threads.length) {
      if (performance.now() - begin > ARRIVE_MS)
        throw engineError(`only ${kernel.workers} of ${threads.length} threads started within ${ARRIVE_MS / 1000} s`);
      await tick();
    }
  }

  /** The kernel forgets what lies behind a position before it reads there. @param {number} pos */
  #keep(pos) {
    if (!Number.isInteger(pos) || pos < 0) throw parameterError(`pos=${pos} must be a whole number, 0 or more`);
    this.tokens.length = Math.min(pos, this.tokens.length);
  }

  /**
   * Read ids tile by tile.
   * @param {number[]} ids
   * @param {number} pos
   * @param {() => Promise<boolean>} shouldContinue
   * @returns {Promise<boolean>} false when cancelled on the way
   */
  async prefill(ids, pos, shouldContinue) {
    for (let i = 0; i < ids.length; i += TILE) {
      if (i && !(await shouldContinue())) return false;
      const tile = ids.slice(i, i + TILE);
      this.#keep(pos + i);
      this.kernel.prefill(tile, pos + i, i + TILE >= ids.length);
      this.tokens.push(...tile);
    }
    return true;
  }

  /**
   * @param {number} id
   * @param {number} pos
   */
  decode(id, pos) {
    this.#keep(pos);
    this.kernel.decode(id, pos);
    this.tokens.push(id);
  }

  /**
   * Read a token and drafts of what follows it in one pass.
   * @param {number[]} ids
   * @param {number} pos
   * @returns {boolean} false where there is no memory for that; nothing is read then
   */
  verify(ids, pos) {
    this.#keep(pos);
    const done = this.kernel.verify(ids, pos);
    if (done) this.tokens.push(...ids);
    return done;
  }

  /**
   * Read one token, and see what some layers would say after it.
   * @param {number} id
   * @param {number} pos
   * @param {{layers: number[], top: number}} lens
   */
  look(id, pos, { layers, top }) {
    this.#keep(pos);
    const seen = this.kernel.look(id, pos, layers, top);
    this.tokens.push(id);
    return seen;
  }

  startSampling(options) {
    this.kernel.startSampling(options);
  }

  /**
   * @param {number[]} history
   * @param {number} [row] of the last `verify`: the scores behind that one of its ids
   */
  sample(history, row) {
    return this.kernel.sample(history, this.missing, row);
  }

  reset() {
    this.kernel.forget(0);
    this.tokens = [];
  }

  /**
   * Scores after the last of the ids, read from an empty cache.
   * @param {number[]} ids
   * @returns {Promise<Float32Array>} (vocab,)
   */
  async logits(ids) {
    this.reset();
    await this.prefill(ids, 0, async () => true);
    return this.kernel.logits();
  }

  /**
   * Read ids from a position of the cache on, a single one as answers are read; the likeliest id after them.
   * @param {number[]} ids
   * @param {number} pos
   * @returns {Promise<number>}
   */
  async next(ids, pos) {
    if (ids.length === 1) this.decode(ids[0], pos);
    else await this.prefill(ids, pos, async () => true);
    this.startSampling(GREEDY);
    return this.kernel.sample([]);
  }

  /**
   * Raise unless the model computes what the native engine computed when the bundle was made.
   * @param {{prompt_ids: number[], greedy_ids: number[], logits_sha256: string}} test
   */
  async selfTest(test) {
    const logits = await this.logits(test.prompt_ids);
    if ((await sha256(new Uint8Array(logits.buffer))) !== test.logits_sha256)
      throw engineError('the self-test gave other logits than the native engine');
    this.startSampling(GREEDY);
    for (const [i, id] of test.greedy_ids.slice(0, DECODED).entries()) {
      if (i) this.decode(test.greedy_ids[i - 1], test.prompt_ids.length + i - 1);
      if (this.kernel.sample([]) !== id) throw engineError('the self-test gave other tokens than the native engine');
    }
    this.reset();
  }

  close() {
    this.kernel.close();
    for (const t of this.threads) t.terminate();
  }
}
