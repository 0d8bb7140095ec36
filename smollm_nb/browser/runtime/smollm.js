/**
 * A SmolLM in the browser.
 *
 *     import { WasmModelLoader } from './smollm.js';
 *     const model = await new WasmModelLoader().load_quantized_model('.');
 *     for await (const { text } of model.generate([{ role: 'user', content: 'Hello' }])) out.textContent += text;
 *     model.dispose();
 *
 * Everything runs in workers; the page never waits.
 */
import { aborted, engineError, fromPlain, parameterError, scriptError, stateError, toPlain } from './errors.js';
import { eventWords, startWorker } from './start.js';
import { Store } from './store.js';
import { plan } from './variants.js';

/**
 * @typedef {object} Message A turn of a conversation.
 * @property {'system' | 'user' | 'assistant'} role
 * @property {string} content
 */

/** @typedef {string | Message[] | number[]} Prompt A text to continue, a conversation to answer, or token ids. */

/**
 * @typedef {object} SamplingOptions
 * @property {number} [maxTokens] The longest answer, in tokens; default: 128.
 * @property {number} [temperature] 0..100; 0, the default, always takes the likeliest token.
 * @property {number} [topK] 0, the default, is off.
 * @property {number} [topP] 0..1; 1, the default, is off.
 * @property {number} [minP] 0..1; 0, the default, is off.
 * @property {number} [repetitionPenalty] 0.01..100; 1, the default, is off.
 * @property {number | bigint | string} [seed] 0..2^64-1; the same seed gives the same text, here and in Python.
 * @property {string | string[]} [stop] Texts at which the answer ends; they may hold special tokens.
 * @property {'error' | 'stop' | 'drop_oldest'} [overflow] What to do where prompt and answer do not fit the context.
 * @property {boolean} [special] Read special tokens that stand in a text as tokens.
 * @property {boolean | LensOptions} [lens] Show what each layer would have said in a token's place; slows the answer.
 * @property {boolean} [lookup] Check drafts from the text so far where that is faster; the answer is the same. Default:
 *   true; a lens turns it off.
 */

/**
 * @typedef {object} LensOptions
 * @property {number[]} [layers] Rising, of 0 (what enters the first layer) to `info.layers`; default: all of them.
 * @property {number} [top] Likeliest tokens of each, 1..64; default: 5.
 */

/**
 * @typedef {object} Lens What the model would have said in a token's place if it ended after a layer: the logit lens.
 * @property {string} text The token itself, alone.
 * @property {LensLayer[]} layers In rising order.
 */

/**
 * @typedef {object} LensLayer
 * @property {number} layer Layers that were run.
 * @property {number[]} ids The likeliest first.
 * @property {string[]} texts Each token alone: U+FFFD where it is a part of a character.
 * @property {number[]} probabilities Of all tokens, before temperature and the like.
 */

/**
 * @typedef {object} CallOptions
 * @property {AbortSignal} [signal] Cancels the answer.
 * @property {(token: Token) => void} [onToken] Called with each token.
 */

/** @typedef {SamplingOptions & CallOptions} GenerateOptions */

/**
 * @typedef {object} Token One token of an answer.
 * @property {number} index 0 for the first.
 * @property {number} id
 * @property {string} text What became certain with it; may be empty.
 * @property {number} elapsed_s Seconds since the call.
 * @property {Lens} [lens] Where the option is on.
 */

/**
 * @typedef {object} Result A whole answer.
 * @property {string} text Without special tokens and stop string.
 * @property {number[]} ids Every token that was chosen, a closing one included.
 * @property {number[]} prompt_ids
 * @property {'eos' | 'stop' | 'length' | 'cancelled'} finish_reason
 * @property {boolean} truncated Whether the context was too short.
 * @property {Timings} timings
 */

/**
 * @typedef {object} Timings What an answer cost, named as in Python; seconds and bytes.
 * @property {number} load_s
 * @property {string} backend
 * @property {string} variant Of the kernel.
 * @property {number} threads
 * @property {number} [prompt_tokens]
 * @property {number} [cached_tokens] Tokens of the prompt that were known already.
 * @property {number} [new_tokens]
 * @property {number} [passes] Over the weights, the prompt's counted as one; drafts make them fewer than the tokens.
 * @property {number} [prefill_s]
 * @property {number} [ttft_s] Until the first token.
 * @property {number[]} [itl_s] Between tokens.
 * @property {number} [tokens_per_s]
 * @property {number} [prefill_tokens_per_s]
 * @property {number} [tokens_per_pass]
 * @property {number} [bytes_per_token]
 * @property {number} [gb_per_s]
 * @property {number} [memory_bytes]
 * @property {number | null} [peak_rss_bytes]
 * @property {string} [file_sha256]
 * @property {{browser: string, cores: number}} [machine]
 */

/**
 * @typedef {object} Plan What a load does.
 * @property {string} name Of the model.
 * @property {string} version Of the bundle.
 * @property {number} parameters
 * @property {string} variant Of the kernel.
 * @property {number} threads That compute.
 * @property {string} why Why that variant on so many threads.
 * @property {number} total Bytes of the files that it takes.
 * @property {number} cached Bytes of these that the browser has kept.
 * @property {number} memory Bytes that the page will take at most.
 * @property {string} trouble Why the browser keeps nothing; "" where it does.
 * @property {string[]} notes What a reader should know, a sentence each.
 * @property {number} [context] Positions of the KV cache.
 * @property {{tokens: number, memory: number}[]} [contexts] Lengths to choose from, and the memory that each takes.
 */

/**
 * @typedef {object} Progress
 * @property {'plan' | 'download' | 'start' | 'ready'} stage
 * @property {number} loaded Bytes.
 * @property {number} total Bytes.
 * @property {number} [fetched] Bytes of these that came from the network.
 * @property {Plan} [plan] Comes again where something is missing that seemed to be kept, before it is fetched.
 */

/**
 * @typedef {object} LoadOptions
 * @property {(progress: Progress) => void} [onProgress]
 * @property {AbortSignal} [signal] Cancels the load.
 * @property {number} [threads] That compute; default: as many as are worth it.
 * @property {number} [context] Positions of the KV cache.
 * @property {Record<string, Blob>} [files] The bundle's, by path, where no server has them.
 */

/**
 * @typedef {object} ModelInfo Facts about a loaded model.
 * @property {string} name
 * @property {string} version Of the bundle.
 * @property {number} parameters
 * @property {any} quantization
 * @property {string} file_sha256
 * @property {string} variant Of the kernel.
 * @property {number} threads That compute.
 * @property {string} why Why that variant on so many threads.
 * @property {boolean} isolated Whether the page is cross-origin isolated.
 * @property {number} context Positions of the KV cache.
 * @property {number} vocab Tokens.
 * @property {number} layers
 * @property {{total: number, weights: number, arena: number, kv: number}} memory Bytes.
 * @property {number} bytes_per_token
 * @property {number} load_s
 * @property {number} fetched_bytes
 * @property {number} total_bytes
 * @property {string} trouble Why the browser keeps nothing; "" where it does.
 * @property {string[]} notes What a reader should know, a sentence each.
 */

/** @typedef {{kept: boolean, trouble: string}} Kept Whether the browser has kept the model, or why not. */

const REUSE_MS = 10000; // within which a load takes the manifest that `plan` has fetched

/** @param {string | URL} url of the bundle's folder */
function folder(url) {
  let out;
  try {
    out = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  } catch {
    throw parameterError(`${url} is no URL: name the bundle's folder`);
  }
  if (!out.pathname.endsWith('/')) out.pathname += '/';
  return out;
}

export class WasmModelLoader {
  #locate;
  /** @type {{store: Store, manifest: import('./store.js').Manifest, at: number} | null} what `plan` has seen */
  #seen = null;

  /**
   * @param {(file: string) => string | URL} [locate] where the script of a worker is ('./worker.js', './loader.js' or
   *   './compute.js'), for a page that cannot start those beside this one
   */
  constructor(locate) {
    this.#locate = locate;
  }

  /**
   * What a load would do: bytes to fetch, bytes that are here already, memory, threads and why.
   * @param {string | URL} url of the bundle's folder
   * @param {LoadOptions} [options]
   * @returns {Promise<Plan>}
   */
  async plan(url, options = {}) {
    const store = new Store(folder(url), options.files);
    const manifest = await store.manifest();
    this.#seen = { store, manifest, at: performance.now() };
    return plan(store, manifest, { ...options, exact: true });
  }

  /**
   * @param {URL} base
   * @param {Record<string, Blob>} [files]
   * @returns {Promise<{store: Store, manifest: any}>}
   */
  async #open(base, files) {
    const seen = this.#seen;
    const { href } = base;
    this.#seen = null;
    if (seen?.store.base.href === href && seen.store.files === files && performance.now() - seen.at < REUSE_MS)
      return seen;
    const store = new Store(base, files);
    return { store, manifest: await store.manifest() };
  }

  /**
   * @param {string | URL} url of the bundle's folder
   * @param {LoadOptions} [options]
   * @returns {Promise<WasmModel>}
   */
  async load_quantized_model(url, options = {}) {
    const { onProgress, signal, threads, context, files } = options;
    if (signal?.aborted) throw aborted();
    const begin = performance.timeOrigin + performance.now();
    const base = folder(url);
    const link = new Link(this.#locate, onProgress);
    const stop = () => link.end(aborted());
    signal?.addEventListener('abort', stop, { once: true });
    try {
      // the manifest comes while the workers start
      const request = this.#open(base, files).then(({ store: { manifestText, note }, manifest }) => [
        { base: base.href, begin, manifest, manifestText, note, threads, context, files },
      ]);
      const info = await link.call('load', request);
      onProgress?.({ stage: 'ready', loaded: info.total_bytes, total: info.total_bytes, fetched: info.fetched_bytes });
      return new WasmModel(link, info);
    } catch (e) {
      link.end(e);
      throw e;
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }
}

const LOADER = './loader.js';
const LOADERS = 2; // as load.js wants them

/** The page's end of the wire to the worker. */
class Link {
  #calls = new Map(); // id → {resolve, reject, onToken}
  #helpers = new Map(); // number → Promise of a Worker
  #last = 0;
  /** @type {Error | null} the error that ended it */
  #over = null;
  #control = new AbortController(); // ends workers that are starting
  /** @type {Worker | null} the engine's, once it runs */
  #worker = null;
  /** @type {(() => void)[]} what is to be said to it then */
  #queued = [];

  /**
   * @param {((file: string) => string | URL) | undefined} locate
   * @param {(progress: any) => void} [onProgress]
   */
  constructor(locate, onProgress) {
    this.onProgress = onProgress;
    this.start = (file) => startWorker(file, locate, this.#control.signal);
    this.kept = new Promise((resolve) => {
      this.settle = resolve;
    });
    this.start('./worker.js').then(
      (worker) => this.#listen(worker),
      (e) => this.end(e),
    );
    this.ready = Array.from({ length: LOADERS }, () => this.start(LOADER)); // will be wanted in a moment
    for (const loader of this.ready) loader.catch(() => {}); // whoever awaits it gets the error
  }

  /** @param {Worker} worker the engine's, which runs */
  #listen(worker) {
    if (this.#over) return worker.terminate();
    this.#worker = worker;
    worker.onerror = (e) =>
      this.end(engineError(`the engine stopped: ${eventWords(e) || 'worker.js failed'}: load the model again`));
    worker.onmessage = ({ data }) => this.#onMessage(data);
    for (const send of this.#queued.splice(0)) send();
  }

  #onMessage(data) {
    if (data.progress) return this.onProgress?.(data.progress);
    if (data.kept) return this.settle(data.kept);
    if (data.spawn) return this.#spawn(data);
    if (data.end) return this.#stop(data.end);
    const call = this.#calls.get(data.id);
    if (data.token) return call?.onToken(data.token);
    this.#calls.delete(data.id);
    if (data.error) call?.reject(fromPlain(data.error));
    else call?.resolve(data.result);
  }

  /**
   * Say something to the engine's worker, in the order of the calls.
   * @param {any} message
   * @param {(error: Error) => void} [refused]
   */
  #send(message, refused) {
    const send = () => {
      try {
        /** @type {Worker} */ (this.#worker).postMessage(message);
      } catch (e) {
        // a function among the options, or some such
        refused?.(
          parameterError(
            `the prompt or an option cannot be handed to a worker (${e.message}): use text, numbers and lists`,
          ),
        );
      }
    };
    if (this.#worker) send();
    else this.#queued.push(send);
  }

  /**
   * @param {string} call
   * @param {any[] | Promise<any[]>} args
   * @param {(token: any) => void} [onToken]
   */
  call(call, args, onToken) {
    const id = ++this.#last;
    const promise = new Promise((resolve, reject) => {
      if (this.#over) return reject(this.#over);
      this.#calls.set(id, { resolve, reject, onToken });
      const refused = (error) => {
        this.#calls.delete(id);
        reject(error);
      };
      const send = (all) => this.#send({ id, call, args: all }, refused);
      if (args instanceof Promise) args.then(send, refused);
      else send(args);
    });
    return Object.assign(promise, { id });
  }

  /** Start a worker that the engine's worker wants. */
  async #spawn({ spawn, file, port }) {
    const starting = (file === LOADER && this.ready.pop()) || this.start(file);
    const lost = (error) => this.#send({ lost: spawn, error: toPlain(error) });
    this.#helpers.set(spawn, starting);
    try {
      const helper = await starting;
      helper.onerror = (e) => lost(scriptError(`${file.slice(2)}: ${eventWords(e) || 'failed'}`));
      helper.postMessage({ port }, [port]);
    } catch (e) {
      lost(e);
    }
  }

  #stop(number) {
    this.#helpers.get(number)?.then(
      (helper) => helper.terminate(),
      () => {},
    );
    this.#helpers.delete(number);
  }

  /** @param {number} id of a call */
  cancel(id) {
    this.#send({ cancel: id });
  }

  /** Stop all workers; their memory goes. @param {Error} error for every call that waits or comes */
  end(error) {
    this.#over ??= error;
    this.#control.abort();
    this.#worker?.terminate();
    for (const number of this.#helpers.keys()) this.#stop(number);
    for (const loader of this.ready)
      loader.then(
        (worker) => worker.terminate(),
        () => {},
      );
    this.settle({ kept: false, trouble: error.message });
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }
}

/** An answer while it grows: iterate over it for tokens; `await answer.result` is the record of all of it. */
export class Generation {
  #tokens = [];
  #wake = () => {};
  #done = false;
  #silent = false;
  #link;

  /**
   * @param {any} link to the worker
   * @param {Prompt} prompt
   * @param {GenerateOptions} options
   */
  constructor(link, prompt, { signal, onToken, ...options }) {
    this.#link = link;
    const call = link.call('generate', [prompt, options], (token) => {
      if (this.#silent) return;
      this.#tokens.push(token);
      onToken?.(token);
      this.#wake();
    });
    /** Which answer it is: no two of a model have the same. @type {number} */
    this.id = call.id;
    const cancel = () => this.cancel();
    if (signal?.aborted) this.cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    /** @type {Promise<Result>} */
    this.result = call.finally(() => {
      signal?.removeEventListener('abort', cancel);
      this.#done = true;
      this.#wake();
    });
    this.result.catch(() => {}); // whoever iterates gets the error there
  }

  /** End it with the token that is on its way; the next call waits for that. */
  cancel() {
    this.#link.cancel(this.id);
  }

  /** End it, and deliver no more tokens. */
  drop() {
    this.#silent = true;
    this.#tokens = [];
    this.cancel();
  }

  /** @returns {AsyncGenerator<Token, Result, void>} */
  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.#tokens.length) yield /** @type {Token} */ (this.#tokens.shift());
        if (this.#done) return await this.result;
        await new Promise((resolve) => {
          this.#wake = () => resolve(undefined);
        });
      }
    } finally {
      if (!this.#done) this.cancel();
    }
  }
}

export class WasmModel {
  #link;
  #gone = false;
  /** @type {Set<Generation>} answers that are not done */
  #growing = new Set();

  /**
   * @param {any} link to the worker
   * @param {any} info
   */
  constructor(link, info) {
    this.#link = link;
    /** @type {ModelInfo} */
    this.info = info;
    /** Of the last answer. @type {Timings} */
    this.timings = { load_s: info.load_s, variant: info.variant, threads: info.threads, backend: 'wasm' };
    /** When the browser has kept the model, or why it did not. @type {Promise<Kept>} */
    this.kept = link.kept;
  }

  /** @returns {boolean} until `dispose` */
  is_ready() {
    return !this.#gone;
  }

  /**
   * Continue a text, answer a conversation, or go on from ids. Answers come one after the other: one that is asked for
   * while another grows begins when that is done.
   * @param {Prompt} prompt
   * @param {GenerateOptions} [options]
   * @returns {Generation}
   */
  generate(prompt, options = {}) {
    const answer = new Generation(this.#live(), prompt, options);
    const over = () => this.#growing.delete(answer);
    this.#growing.add(answer);
    answer.result
      .then((r) => {
        this.timings = r.timings;
      })
      .finally(over)
      .catch(() => {});
    return answer;
  }

  /**
   * The ids of a text or a conversation.
   * @param {string | Message[]} prompt
   * @param {{special?: boolean}} [options]
   * @returns {Promise<number[]>}
   */
  async encode(prompt, options = {}) {
    return this.#live().call('encode', [prompt, options]);
  }

  /**
   * The likeliest id after some ids, which are read from a position of the cache on: no text, no sampling.
   * @param {number[]} ids
   * @param {number} [pos]
   * @returns {Promise<number>}
   */
  async next(ids, pos = 0) {
    return this.#live().call('next', [ids, pos]);
  }

  /**
   * Scores after the last of the ids, read from an empty cache.
   * @param {number[]} ids
   * @returns {Promise<Float32Array>} (vocab,)
   */
  async logits(ids) {
    return this.#live().call('logits', [ids]);
  }

  /**
   * Forget all tokens: answers that still grow are cancelled, and deliver no more tokens.
   * @returns {Promise<void>}
   */
  async reset() {
    for (const answer of this.#growing) answer.drop();
    return this.#live().call('reset', []);
  }

  /** Stop everything and give the memory back. */
  dispose() {
    this.#gone = true;
    this.#link.end(stateError('the model was disposed of: load it again'));
  }

  #live() {
    if (this.#gone) throw stateError('the model was disposed of: load it again');
    return this.#link;
  }
}
