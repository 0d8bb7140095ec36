/**
 * From a URL to a model that answers: everything that can run side by side does, and what fails with threads is tried
 * without.
 */
import { engineError, fromPlain } from './errors.js';
import { spawn, tick } from './helpers.js';
import { compile, Kernel } from './kernel.js';
import { Model, startThreads } from './model.js';
import { readConfig, readHead } from './q4.js';
import { byRole, Store } from './store.js';
import { Tokenizer } from './text.js';
import { choices, pickContext, plan } from './variants.js';
import { Template } from './vendor/jinja.js';
import { Tokenizer as Library } from './vendor/tokenizers.js';

// workers that fetch, hash and inflate, while this one makes the tokenizer; smollm.js has as many ready
const LOADERS = 2;

/**
 * @typedef {object} Request
 * @property {string} base the bundle's folder
 * @property {number} begin on the clock of `now`
 * @property {import('./manifest.js').Manifest} manifest
 * @property {string} [manifestText]
 * @property {string} [note] what a reader should know of it
 * @property {number} [threads]
 * @property {number} [context]
 * @property {Record<string, Blob>} [files]
 */

/** The same clock for the page and its workers. */
const now = () => performance.timeOrigin + performance.now();
const readJson = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

/** One load: bytes are counted here, and what came from the network is remembered, to be kept when there is time. */
class Session {
  /** @type {{path: string, bytes: () => Uint8Array}[]} */
  unkept = [];
  loaded = 0;
  fetched = 0;

  /**
   * @param {Store} store
   * @param {import('./manifest.js').Manifest} manifest
   * @param {(progress: any) => void} report
   * @param {import('./smollm.js').Plan} planned
   */
  constructor(store, manifest, report, planned) {
    this.store = store;
    this.manifest = manifest;
    this.report = report;
    this.planned = planned;
    this.total = planned.total;
  }

  add(n) {
    this.loaded += n;
    this.report({ stage: 'download', loaded: this.loaded, total: this.total, fetched: this.fetched });
  }

  /**
   * Say before a file is fetched that it is not here, where it seemed to be.
   * @param {import('./manifest.js').File} file
   */
  missing({ path, stored }) {
    if (!this.store.believed.delete(path)) return;
    this.planned = { ...this.planned, cached: this.planned.cached - stored };
    this.report({ stage: 'plan', loaded: this.loaded, total: this.total, plan: this.planned });
  }

  /**
   * @param {import('./manifest.js').File | undefined} file
   * @returns {Promise<Uint8Array | null>} the file's bytes, gzip undone
   */
  async file(file) {
    if (!file) return null;
    const { bytes, cached } = await this.store.file(
      file,
      (n) => this.add(n),
      () => this.missing(file),
    );
    if (cached) return bytes;
    this.unkept.push({ path: file.path, bytes: () => bytes });
    this.fetched += file.stored;
    return bytes;
  }

  role(role) {
    return this.file(byRole(this.manifest, role));
  }

  /**
   * @param {string} path of a chunk
   * @param {boolean} cached
   * @param {boolean} kept
   * @param {Kernel} kernel that holds it
   */
  arrived(path, cached, kept, kernel) {
    const chunk = /** @type {import('./manifest.js').Chunk} */ (this.manifest.weights.find((c) => c.path === path));
    if (!cached) this.fetched += chunk.stored;
    if (!kept)
      this.unkept.push({ path, bytes: () => kernel.weights.subarray(chunk.offset, chunk.offset + chunk.bytes) });
    this.add(0);
  }

  /** Every build of the kernel: the next visit, perhaps without a network, may want another. */
  async #keepKernels() {
    for (const file of this.manifest.files.filter((f) => f.role === 'kernel')) {
      const { bytes, cached } = await this.store.file(file).catch(() => ({ bytes: null, cached: true }));
      if (bytes && !cached) await this.store.keep(file.path, bytes);
    }
  }

  /**
   * Keep what came from the network, one file at a time, between tokens.
   * @param {boolean} whole whether all is here, so that the version before may go
   * @returns {Promise<{kept: boolean, trouble: string}>}
   */
  async keep(whole) {
    for (const { path, bytes } of this.unkept) {
      if (!(await this.store.keep(path, bytes()))) return { kept: false, trouble: this.store.trouble };
      await tick();
    }
    if (whole) {
      await this.#keepKernels();
      await this.store.settle(this.manifest);
    }
    return { kept: !this.store.trouble, trouble: this.store.trouble };
  }
}

/** The weights on their way: fetched from the start, inflated as soon as there is memory. */
class Weights {
  /** @param {Session} session */
  constructor(session) {
    const { weights } = session.manifest;
    const {
      base: { href: base },
      files,
    } = session.store;
    this.loaders = Array.from({ length: LOADERS }, () => spawn('./loader.js'));
    this.loaders.forEach((loader, i) =>
      loader.postMessage({ base, files, chunks: weights.filter((_, k) => k % LOADERS === i) }),
    );
    this.missing = weights.length;
    this.all = new Promise((resolve, reject) => {
      for (const loader of this.loaders) {
        loader.onerror = reject;
        loader.onmessage = ({ data }) => this.#onMessage(data, loader, session, resolve, reject);
      }
    });
    this.all.catch(() => {}); // whoever awaits it gets the error
  }

  /** @param {Kernel} kernel whose memory is to be filled */
  into(kernel) {
    this.kernel = kernel;
    const { memory, at, weightBytes: size } = kernel;
    for (const loader of this.loaders) loader.postMessage(kernel.threads > 1 ? { memory, at: at.weights, size } : {});
  }

  #onMessage(data, loader, session, resolve, reject) {
    if (data.error) return reject(fromPlain(data.error));
    if (data.missing) return session.missing(session.manifest.weights.find((c) => c.path === data.missing));
    if (!data.done) return session.add(data.progress);
    const { path, offset, cached, kept, trouble } = data.done;
    const kernel = /** @type {Kernel} */ (this.kernel);
    if (data.bytes) {
      kernel.weights.set(data.bytes, offset);
      loader.postMessage({ back: data.bytes }, [data.bytes.buffer]);
    }
    session.store.trouble ||= trouble;
    session.arrived(path, cached, kept, kernel);
    if (!--this.missing) resolve(undefined);
  }

  end() {
    this.loaders.forEach((loader) => loader.terminate());
  }
}

/**
 * What the tokenizer is made of.
 * @param {Session} session
 * @returns {Promise<() => Tokenizer>} makes it, which takes a while
 */
async function tokenizerParts(session) {
  const roles = ['tokenizer', 'tokenizer_config', 'chat_template'];
  const [tokenizer, config, template] = await Promise.all(roles.map((role) => session.role(role)));
  const text = template ? new TextDecoder().decode(template) : undefined;
  return () => new Tokenizer(Library, Template, readJson(tokenizer), config ? readJson(config) : {}, text);
}

/**
 * The kernel's build, with memory for the model.
 * @param {Session} session
 * @param {import('./variants.js').Choice} choice
 * @param {Request} request
 * @returns {Promise<Kernel>}
 */
async function openKernel(session, choice, request) {
  const { manifest } = session;
  const build = manifest.files.find((f) => f.path === choice.path);
  const [module, config] = await Promise.all([
    session.file(build).then((bytes) => compile(/** @type {Uint8Array} */ (bytes))),
    session.role('config').then(readJson).then(readConfig),
  ]);
  return Kernel.open(module, {
    config,
    context: pickContext(config, request.context),
    threads: choice.threads,
    weightBytes: manifest.model.bytes,
  });
}

/**
 * Everything for one way to run.
 * @param {Session} session
 * @param {import('./variants.js').Choice} choice
 * @param {Request} request
 */
async function start(session, choice, request) {
  const weights = new Weights(session);
  const parts = tokenizerParts(session);
  const opened = openKernel(session, choice, request).then((kernel) => {
    weights.into(kernel);
    return { kernel, threads: startThreads(kernel) };
  });
  const made = Promise.all([parts, opened]).then(([makeTokenizer, { kernel }]) => {
    // loaders and threads are at work by now
    kernel.selfTest();
    return makeTokenizer();
  });
  try {
    const [{ kernel, threads }, tokenizer] = await Promise.all([
      opened,
      made,
      weights.all,
      opened.then(({ threads }) => threads.ready),
    ]);
    session.report({ stage: 'start', loaded: session.total, total: session.total, fetched: session.fetched });
    const head = readHead(kernel.weights);
    kernel.create(head.config, head.parts);
    const model = new Model(kernel, threads.all);
    model.missing = tokenizer.missing(head.config.vocab);
    model.config.eos.push(...tokenizer.ends());
    await model.gather();
    await model.selfTest(session.manifest.self_test);
    return { model, tokenizer };
  } catch (e) {
    opened.then(
      ({ threads }) => threads.all.forEach((t) => t.terminate()),
      () => {},
    );
    throw e;
  } finally {
    weights.end();
  }
}

/**
 * @param {Request} request
 * @param {(progress: any) => void} report
 */
export async function load(request, report) {
  const { manifest, manifestText, note } = request;
  const store = new Store(new URL(request.base), request.files);
  Object.assign(store, { manifestText, note });
  const p = await plan(store, manifest, request);
  const ways = choices(manifest, request.threads);
  report({ stage: 'plan', loaded: 0, total: p.total, plan: p });
  let failed = '';
  for (const choice of ways) {
    const session = new Session(store, manifest, report, p);
    try {
      const { model, tokenizer } = await start(session, choice, request);
      const info = describe(model.kernel, manifest, { ...choice, why: choice.why + failed }, session, request.begin);
      return { model, tokenizer, info, keep: () => session.keep(true) };
    } catch (e) {
      await session.keep(false); // for the next try
      if (e.name !== 'EngineError' || choice === ways.at(-1)) throw e;
      failed = `, after ${choice.variant} failed: ${e.message}`;
    }
  }
  throw engineError('the bundle has no build of the kernel for this browser'); // no manifest that was read says so
}

/** Facts for the page. */
function describe(kernel, manifest, { variant, threads, why }, session, begin) {
  const { memory, weightBytes, arenaBytes, kvBytes, context } = kernel;
  const { notes, threads: planned } = session.planned;
  return {
    name: manifest.name,
    version: manifest.version,
    parameters: manifest.parameters,
    quantization: manifest.quantization,
    file_sha256: manifest.model.sha256,
    variant,
    threads,
    why,
    isolated: Boolean(globalThis.crossOriginIsolated),
    context,
    vocab: kernel.config.vocab,
    layers: kernel.config.layers,
    memory: { total: memory.buffer.byteLength, weights: weightBytes, arena: arenaBytes, kv: kvBytes },
    bytes_per_token: kernel.bytesPerToken,
    load_s: (now() - begin) / 1000,
    fetched_bytes: session.fetched,
    total_bytes: session.total,
    trouble: session.store.trouble,
    notes: threads < planned ? [why, ...notes] : notes,
  };
}
