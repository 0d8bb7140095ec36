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
import { aborted, engineError, fromPlain, stateError } from './errors.js';
import { Store } from './store.js';
import { plan } from './variants.js';

/**
 * @typedef {import('./generate.js').Options & {signal?: AbortSignal, onToken?: (token: import('./generate.js').Token) => void}} GenerateOptions
 * @typedef {{onProgress?: (p: {stage: 'plan' | 'download' | 'start' | 'ready', loaded: number, total: number, fetched?: number, plan?: any}) => void,
 *   signal?: AbortSignal, threads?: number, context?: number, files?: Record<string, Blob>}} LoadOptions `files`: the bundle's, by path, where no server has them
 */

/** @param {string | URL} url of the bundle's folder */
function folder(url) {
  const out = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  if (!out.pathname.endsWith('/')) out.pathname += '/';
  return out;
}

export class WasmModelLoader {
  #locate;

  /** @param {(file: string) => string | URL} [locate] where the script of a worker is, for a page that cannot start those beside this one */
  constructor(locate = (file) => new URL(file, import.meta.url)) { this.#locate = locate; }

  /** What a load would do: bytes to fetch, bytes that are here already, memory, threads and why. @param {string | URL} url @param {LoadOptions} [options] */
  async plan(url, options = {}) {
    const store = new Store(folder(url), options.files);
    return plan(store, await store.manifest(), { base: store.base.href, ...options });
  }

  /** @param {string | URL} url of the bundle's folder @param {LoadOptions} [options] @returns {Promise<WasmModel>} */
  async load_quantized_model(url, { onProgress, signal, threads, context, files } = {}) {
    if (signal?.aborted) throw aborted();
    const begin = performance.timeOrigin + performance.now(), store = new Store(folder(url), files);
    const link = new Link(this.#locate, onProgress), stop = () => link.end(aborted());
    signal?.addEventListener('abort', stop, { once: true });
    try {
      const request = store.manifest().then((manifest) => [{ base: store.base.href, begin, manifest, manifestText: store.manifestText, threads, context, files }]); // comes while the workers start
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

const LOADER = './loader.js', LOADERS = 2; // as load.js wants them

/** The page's end of the wire to the worker. */
class Link {
  #calls = new Map(); // id → {resolve, reject, onToken}
  #helpers = new Map(); // number → Worker
  #last = 0;
  #over = null; // the error that ended it

  /** @param {(file: string) => string | URL} locate @param {(progress: any) => void} [onProgress] */
  constructor(locate, onProgress) {
    this.start = (file) => new Worker(locate(file), { type: 'module' });
    this.worker = this.start('./worker.js');
    this.ready = Array.from({ length: LOADERS }, () => this.start(LOADER)); // will be wanted in a moment
    this.worker.onerror = (e) => this.end(engineError(`the engine stopped: ${e.message || 'worker.js could not be started'}: load the model again`));
    this.kept = new Promise((resolve) => { this.settle = resolve; });
    this.worker.onmessage = ({ data }) => {
      if (data.progress) return onProgress?.(data.progress);
      if (data.kept) return this.settle(data.kept);
      if (data.spawn) return this.#spawn(data);
      if (data.end) return this.#stop(data.end);
      const call = this.#calls.get(data.id);
      if (data.token) return call?.onToken(data.token);
      this.#calls.delete(data.id);
      if (data.error) call?.reject(fromPlain(data.error));
      else call?.resolve(data.result);
    };
  }

  /** @param {string} call @param {any[] | Promise<any[]>} args @param {(token: any) => void} [onToken] */
  call(call, args, onToken) {
    const id = ++this.#last;
    const promise = new Promise((resolve, reject) => {
      if (this.#over) return reject(this.#over);
      this.#calls.set(id, { resolve, reject, onToken });
      const post = (all) => this.worker.postMessage({ id, call, args: all });
      if (args instanceof Promise) args.then(post, reject);
      else post(args);
    });
    return Object.assign(promise, { id });
  }

  /** Start a worker that the engine's worker wants. */
  #spawn({ spawn, file, port }) {
    const helper = (file === LOADER && this.ready.pop()) || this.start(file);
    helper.onerror = (e) => this.worker.postMessage({ lost: spawn, message: e.message });
    helper.postMessage({ port }, [port]);
    this.#helpers.set(spawn, helper);
  }

  #stop(number) {
    this.#helpers.get(number)?.terminate();
    this.#helpers.delete(number);
  }

  cancel(id) { this.worker.postMessage({ cancel: id }); }

  /** Stop all workers; their memory goes. @param {Error} error for every call that waits or comes */
  end(error) {
    this.#over ??= error;
    this.worker.terminate();
    for (const number of this.#helpers.keys()) this.#stop(number);
    for (const helper of this.ready) helper.terminate();
    this.settle({ kept: false, trouble: error.message });
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }
}

/** An answer while it grows: iterate over it for tokens; `await answer.result` is the record of all of it. */
class Generation {
  #tokens = [];
  #wake = () => {};
  #done = false;

  /** @param {Link} link @param {any} prompt @param {GenerateOptions} options */
  constructor(link, prompt, { signal, onToken, ...options }) {
    const call = link.call('generate', [prompt, options], (token) => {
      this.#tokens.push(token);
      onToken?.(token);
      this.#wake();
    });
    this.cancel = () => link.cancel(call.id);
    if (signal?.aborted) this.cancel();
    signal?.addEventListener('abort', this.cancel, { once: true });
    /** @type {Promise<import('./generate.js').Result>} */
    this.result = call.finally(() => {
      signal?.removeEventListener('abort', this.cancel);
      this.#done = true;
      this.#wake();
    });
    this.result.catch(() => {}); // whoever iterates hears of it there
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.#tokens.length) yield this.#tokens.shift();
        if (this.#done) return await this.result;
        await new Promise((resolve) => { this.#wake = resolve; });
      }
    } finally {
      if (!this.#done) this.cancel();
    }
  }
}

export class WasmModel {
  #link;
  #gone = false;

  /** @param {Link} link @param {any} info */
  constructor(link, info) {
    this.#link = link;
    /** name, version, variant, why, threads, isolated, context, memory {total, weights, arena, kv} in bytes, load_s, fetched_bytes, … */
    this.info = info;
    /** Timings of the last answer, named as in Python's `Timings`. @type {any} */
    this.timings = { load_s: info.load_s, variant: info.variant, threads: info.threads, backend: 'wasm' };
    /** When the browser has kept the model, or why it did not. @type {Promise<{kept: boolean, trouble: string}>} */
    this.kept = link.kept;
  }

  is_ready() { return !this.#gone; }

  /** Continue a text, answer a conversation, or go on from ids. @param {string | import('./text.js').Message[] | number[]} prompt @param {GenerateOptions} [options] */
  generate(prompt, options = {}) {
    const answer = new Generation(this.#live(), prompt, options);
    answer.result.then((r) => { this.timings = r.timings; }, () => {});
    return answer;
  }

  /** The ids of a text or a conversation. @param {string | import('./text.js').Message[]} prompt @param {{special?: boolean}} [options] @returns {Promise<number[]>} */
  async encode(prompt, options = {}) { return this.#live().call('encode', [prompt, options]); }

  /** The likeliest id after some ids, which are read from a position of the cache on: no text, no sampling. @param {number[]} ids @param {number} [pos] @returns {Promise<number>} */
  async next(ids, pos = 0) { return this.#live().call('next', [ids, pos]); }

  /** Scores after the last of the ids, read from an empty cache. @param {number[]} ids @returns {Promise<Float32Array>} (vocab,) */
  async logits(ids) { return this.#live().call('logits', [ids]); }

  /** Forget all tokens. */
  async reset() { return this.#live().call('reset', []); }

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
