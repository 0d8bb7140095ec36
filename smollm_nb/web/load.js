/** From a URL to a model that answers: everything that can run side by side does, and what fails with threads is tried without. */
import { fromPlain } from './errors.js';
import { spawn, tick } from './helpers.js';
import { Kernel } from './kernel.js';
import { Model, startThreads } from './model.js';
import { readConfig, readHead } from './q4.js';
import { byRole, inflate, Store } from './store.js';
import { Tokenizer } from './text.js';
import { choices, pickContext, plan } from './variants.js';

const LOADERS = 2; // workers that fetch, hash and inflate, while this one makes the tokenizer

/** @typedef {{base: string, threads?: number, context?: number}} Request */

const readJson = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

/** One load: bytes are counted here, and what came from the network is remembered, to be kept when there is time. */
class Session {
  /** @param {Store} store @param {any} manifest @param {(progress: any) => void} report @param {number} total bytes */
  constructor(store, manifest, report, total) {
    Object.assign(this, { store, manifest, report, total, loaded: 0, fetched: 0, unkept: /** @type {{path: string, bytes: () => Uint8Array}[]} */ ([]) });
  }

  add(n) {
    this.loaded += n;
    this.report({ stage: 'download', loaded: this.loaded, total: this.total, fetched: this.fetched });
  }

  /** @param {string} role @returns {Promise<Uint8Array | null>} the file's bytes as they are served */
  async file(file) {
    if (!file) return null;
    const { bytes, cached } = await this.store.file(file, (n) => this.add(n));
    if (!cached) this.unkept.push({ path: file.path, bytes: () => bytes });
    if (!cached) this.fetched += file.stored;
    return bytes;
  }

  role(role) { return this.file(byRole(this.manifest, role)); }

  /** @param {Kernel} kernel whose memory is to be filled */
  weights(kernel) {
    const shared = kernel.threads > 1 && { memory: kernel.memory, at: kernel.at.weights, size: kernel.weightBytes };
    const share = (i) => this.manifest.weights.filter((_, k) => k % LOADERS === i);
    const loaders = Array.from({ length: LOADERS }, (_, i) => spawn('./loader.js', { base: this.store.base.href, chunks: share(i), ...shared }, 'a loader'));
    let missing = this.manifest.weights.length;
    return new Promise((resolve, reject) => loaders.forEach((loader) => {
      loader.onerror = reject;
      loader.onmessage = ({ data }) => {
        if (data.error) return reject(fromPlain(data.error));
        if (!data.done) return this.add(data.progress);
        if (data.bytes) kernel.weights.set(data.bytes, data.done.offset);
        this.#arrived(data.done, kernel);
        if (!--missing) resolve(undefined);
      };
    })).finally(() => loaders.forEach((l) => l.terminate()));
  }

  #arrived({ path, cached, kept, trouble }, kernel) {
    const chunk = this.manifest.weights.find((c) => c.path === path);
    if (!cached) this.fetched += chunk.stored;
    if (!kept) this.unkept.push({ path, bytes: () => kernel.weights.slice(chunk.offset, chunk.offset + chunk.bytes) });
    this.store.trouble ||= trouble;
    this.add(0);
  }

  /** Every build of the kernel: the next visit, perhaps without a network, may want another. */
  async #keepKernels() {
    for (const file of this.manifest.files.filter((f) => f.role === 'kernel')) {
      const { bytes, cached } = await this.store.file(file).catch(() => ({ bytes: null, cached: true }));
      if (!cached) await this.store.keep(file.path, bytes);
    }
  }

  /** Keep what came from the network, one file at a time, between tokens. @param {boolean} whole whether all is here, so that the version before may go @returns {Promise<{kept: boolean, trouble: string}>} */
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

/** @param {Session} session @returns {Promise<Tokenizer>} */
async function makeTokenizer(session) {
  const file = byRole(session.manifest, 'tokenizer');
  const [tokenizer, config, template, { Tokenizer: Library }, { Template }] = await Promise.all([
    session.role('tokenizer').then((stored) => inflate(stored, file.bytes)), session.role('tokenizer_config'), session.role('chat_template'),
    import('./vendor/tokenizers.js'), import('./vendor/jinja.js'),
  ]);
  return new Tokenizer(Library, Template, readJson(tokenizer), config ? readJson(config) : {}, template ? new TextDecoder().decode(template) : undefined);
}

/** Everything for one way to run. @param {Session} session @param {any} choice @param {Request} request */
async function start(session, choice, request) {
  const { manifest } = session;
  const [module, config] = await Promise.all([
    session.file(manifest.files.find((f) => f.path === choice.path)).then((bytes) => WebAssembly.compile(bytes)), session.role('config').then(readJson).then(readConfig),
  ]);
  const context = pickContext(config, request.context);
  const kernel = await Kernel.open(module, { config, context, threads: choice.threads, weightBytes: manifest.model.bytes });
  const weights = session.weights(kernel), threads = startThreads(kernel);
  try {
    const [tokenizer] = await Promise.all([makeTokenizer(session), weights, threads.ready]);
    session.report({ stage: 'start', loaded: session.total, total: session.total, fetched: session.fetched });
    const head = readHead(kernel.weights);
    kernel.create(head.config, head.parts);
    const model = new Model(kernel, threads.all);
    await model.gather();
    await model.selfTest(manifest.self_test);
    return { model, tokenizer };
  } catch (e) {
    threads.all.forEach((t) => t.terminate());
    throw e;
  }
}

/** @param {Request} request @param {(progress: any) => void} report */
export async function load(request, report) {
  const begin = performance.now(), store = new Store(new URL(request.base)), manifest = await store.manifest();
  const p = await plan(store, manifest, request), ways = choices(manifest, request.threads);
  report({ stage: 'plan', loaded: 0, total: p.total, plan: p });
  let failed = '';
  for (const choice of ways) {
    const session = new Session(store, manifest, report, p.total);
    try {
      const { model, tokenizer } = await start(session, choice, request);
      const info = describe(model.kernel, manifest, { ...choice, why: choice.why + failed }, session, begin);
      return { model, tokenizer, info, keep: () => session.keep(true) };
    } catch (e) {
      await session.keep(false); // for the next try
      if (e.name !== 'EngineError' || choice === ways.at(-1)) throw e;
      failed = `, after ${choice.variant} failed: ${e.message}`;
    }
  }
}

/** Facts for the page. */
function describe(kernel, manifest, { variant, threads, why }, session, begin) {
  const { memory, weightBytes, arenaBytes, kvBytes, context } = kernel;
  return {
    name: manifest.name, version: manifest.version, parameters: manifest.parameters, quantization: manifest.quantization, file_sha256: manifest.model.sha256,
    variant, threads, why, isolated: Boolean(globalThis.crossOriginIsolated), context, vocab: kernel.config.vocab,
    memory: { total: memory.buffer.byteLength, weights: weightBytes, arena: arenaBytes, kv: kvBytes }, bytes_per_token: kernel.bytesPerToken,
    load_s: (performance.now() - begin) / 1000, fetched_bytes: session.fetched, total_bytes: session.total, trouble: session.store.trouble,
  };
}
