/**
 * The bundle's files: fetched with patience, verified by SHA-256 before anyone sees them, kept in the browser's cache.
 * Weights are kept inflated, so that a warm start only reads and hashes; every other file as it is served.
 */
import { bundleError, fetchError } from './errors.js';
import { sha256 } from './sha256.js';

export const MANIFEST = 'model_manifest.json';
const RETRY_MS = [250, 500, 1000, 2000]; // pauses after which a request that failed is tried again
const STALL_MS = 20000; // without a byte: as good as a broken connection

/**
 * @typedef {{path: string, sha256: string, stored: number, bytes: number, offset?: number, raw_sha256?: string, role?: string}} File an entry of the manifest
 * @typedef {{name: string, version: string, weights: File[], files: File[], [key: string]: any}} Manifest
 * @typedef {(bytes: number) => void} OnBytes hears how many bytes came; a negative number when they were lost
 */

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What comes first: the promise, or an error after a silence. @template T @param {Promise<T>} promise @returns {Promise<T>} */
async function notForever(promise) {
  let timer;
  const silence = new Promise((_, reject) => { timer = setTimeout(() => reject(new TypeError(`silent for ${STALL_MS / 1000} s`)), STALL_MS); });
  try {
    return await Promise.race([promise, silence]);
  } finally {
    clearTimeout(timer);
  }
}

/** Read a stream whose size is known. @param {ReadableStream<Uint8Array>} stream @param {Uint8Array} out at least as long @param {number[]} sizes that it may have @param {OnBytes} [onBytes] @returns {Promise<Uint8Array>} the part of `out` that it filled */
async function readInto(stream, out, sizes, onBytes) {
  const reader = stream.getReader(), most = Math.max(...sizes);
  let at = 0, seen = -1, silent = false;
  const watch = setInterval(() => { // one for all of the stream: one for each of its pieces would cost more than the pieces
    silent = at === seen;
    seen = at;
    if (silent) reader.cancel().catch(() => {}); // ends the read that waits
  }, STALL_MS);
  try {
    for (let r; !(r = await reader.read()).done; at += r.value.length) {
      if (at + r.value.length > most) throw bundleError(`is longer than the ${sizes[0]} bytes that the manifest gives it`);
      out.set(r.value, at);
      onBytes?.(r.value.length);
    }
    if (silent) throw new TypeError(`silent for ${STALL_MS / 1000} s`);
    if (!sizes.includes(at)) throw new TypeError(`ended after ${at} of ${sizes[0]} bytes`);
  } catch (e) {
    onBytes?.(-at);
    reader.cancel().catch(() => {});
    throw e;
  } finally {
    clearInterval(watch);
  }
  return out.subarray(0, at);
}

/** @param {File} file @returns {number} bytes that may come for it */
const most = (file) => Math.max(file.bytes, file.stored);

/** @param {string} name @param {Response} response */
function checkStatus(name, response) {
  if (response.ok) return;
  if (response.status >= 500) throw new TypeError(`the server said ${response.status}`);
  const why = response.status === 404 ? 'the server has no such file (404): copy the whole bundle there' : `the server refuses it (${response.status}): let it be read`;
  throw fetchError(`${name}: ${why}`);
}

/** Call `attempt` until it works, with pauses; what only the server's owner can mend is thrown at once. @template T @param {string} name @param {() => Promise<T>} attempt @returns {Promise<T>} */
async function patiently(name, attempt) {
  for (let n = 0; ; n++) {
    try {
      return await attempt();
    } catch (e) {
      if (e.name === 'FetchError') throw e;
      if (e.name === 'BundleError' && n) throw bundleError(`${name}: ${e.message}`); // wrong bytes twice
      if (n === RETRY_MS.length) {
        throw fetchError(`${name}: no answer after ${n + 1} tries (${e.message}): start the server or check the network, then load again; what is here already is kept`);
      }
    }
    await sleep(RETRY_MS[n]);
  }
}

/** Undo gzip. @param {Uint8Array} stored @param {number} size of the result @param {Uint8Array} [out] where it goes @returns {Promise<Uint8Array>} (size,) */
export async function inflate(stored, size, out = new Uint8Array(size)) {
  if (stored[0] !== 0x1f || stored[1] !== 0x8b) { // undone on the way
    out.set(stored);
    return out;
  }
  const gunzip = new DecompressionStream('gzip'), writer = gunzip.writable.getWriter();
  writer.write(stored).catch(() => {}); // the reader throws the same error
  writer.close().catch(() => {});
  return readInto(gunzip.readable, out, [size]);
}

export class Store {
  /** @param {URL} base the bundle's folder, with a slash at its end @param {Record<string, Blob>} [files] by path, where no server has them */
  constructor(base, files) {
    this.base = base;
    this.files = files;
    this.trouble = files ? 'the files were chosen by hand, so the browser keeps nothing' : globalThis.caches ? '' : 'this page is no secure context (HTTPS or localhost), so the browser keeps nothing';
    this.cacheName = `smollm_nb ${base.pathname}`;
    /** Buffers to read into: fresh memory costs as much as reading. @type {Uint8Array[]} */
    this.spare = [];
    /** What goes from shared memory into the cache. @type {Uint8Array} */
    this.outside = new Uint8Array();
  }

  /** @returns {Promise<Cache | null>} */
  async #open() {
    if (!this.trouble) this.opened ??= caches.open(this.cacheName);
    try {
      return (await this.opened) ?? null;
    } catch (e) {
      this.trouble = `the browser keeps nothing here (${e.message})`;
      return null;
    }
  }

  /** @param {string} path @returns {string} */
  url(path) { return new URL(path, this.base).href; }

  /** The bytes of a cached file, if they are there and right; wrong ones are thrown away. @param {string} path @param {string} digest @param {number} size @param {Uint8Array} buffer */
  async #cached(path, digest, size, buffer) {
    try {
      const cache = await this.#open(), hit = await cache?.match(this.url(path));
      if (!hit?.body) return null;
      const bytes = await readInto(hit.body, buffer, [size]).catch(() => null);
      if (bytes && (await sha256(bytes)) === digest) return bytes;
      for (const gone of [MANIFEST, path]) await cache.delete(this.url(gone)); // a kept manifest says that all it names is kept
    } catch { /* a cache that cannot be read is as good as none */ }
    return null;
  }

  /** What the server says, or the file that was chosen. A script that came from a blob has no referrer of its own, and JupyterLab wants one. @param {string} path @param {RequestCache} cache @returns {Promise<Response>} */
  async #ask(path, cache) {
    if (!this.files) return notForever(fetch(this.url(path), { cache, referrer: this.base.href }));
    if (!this.files[path]) throw fetchError(`${path} is not in the folder that was chosen: choose the whole bundle`);
    return new Response(this.files[path]);
  }

  /** Fetch the bytes that the server holds. @param {File} file @param {Uint8Array} buffer @param {OnBytes} [onBytes] */
  #fetch(file, buffer, onBytes) {
    return patiently(file.path, async () => {
      const response = await this.#ask(file.path, 'no-store');
      checkStatus(file.path, response);
      const undone = /gzip/.test(response.headers.get('Content-Encoding') ?? ''); // some hosts call a .gz encoded, and then the browser has undone it
      const got = await readInto(response.body, buffer, undone ? [file.stored, file.bytes] : [file.stored], onBytes), digest = await sha256(got);
      if (digest === file.sha256 || (undone && got.length === file.bytes && digest === (file.raw_sha256 ?? digest))) return got;
      onBytes?.(-got.length);
      throw bundleError('its bytes do not match their SHA-256: copy the bundle to the server again');
    });
  }

  /** A chunk of the weights, verified and inflated. @param {File} chunk @param {() => Promise<Uint8Array>} place gives (chunk.bytes,) to put it @param {OnBytes} [onBytes] @returns {Promise<{bytes: Uint8Array, cached: boolean}>} */
  async chunk(chunk, place, onBytes) {
    const buffer = this.spare.find((b) => b.length >= most(chunk)) ?? new Uint8Array(most(chunk));
    this.spare = this.spare.filter((b) => b !== buffer);
    const hit = await this.#cached(chunk.path, /** @type {string} */ (chunk.raw_sha256), chunk.bytes, buffer);
    if (hit) onBytes?.(chunk.stored);
    const stored = hit ?? (await this.#fetch(chunk, buffer, onBytes)), bytes = await place();
    if (hit) bytes.set(hit);
    else await inflate(stored, chunk.bytes, bytes);
    this.spare.push(buffer);
    return { bytes, cached: Boolean(hit) };
  }

  /** Any other file, as it is served. @param {File} file @param {OnBytes} [onBytes] @returns {Promise<{bytes: Uint8Array, cached: boolean}>} */
  async file(file, onBytes) {
    const buffer = new Uint8Array(most(file)), hit = await this.#cached(file.path, file.sha256, file.stored, buffer);
    if (hit) onBytes?.(file.stored);
    return hit ? { bytes: hit, cached: true } : { bytes: await this.#fetch(file, buffer, onBytes), cached: false };
  }

  /** Bytes that may go into a response, out of shared memory; the same buffer each time. @param {Uint8Array} bytes */
  #unshared(bytes) {
    if (bytes.buffer instanceof ArrayBuffer) return bytes;
    if (this.outside.length < bytes.length) this.outside = new Uint8Array(bytes.length);
    this.outside.set(bytes);
    return this.outside.subarray(0, bytes.length);
  }

  /** Keep bytes that were verified. @param {string} path @param {Uint8Array} bytes @returns {Promise<boolean>} whether they are kept */
  async keep(path, bytes) {
    try {
      const cache = await this.#open();
      if (!cache) return false;
      await cache.put(this.url(path), new Response(this.#unshared(bytes), { headers: { 'Content-Length': String(bytes.length) } }));
      return true;
    } catch (e) { // by now the memory holds all there is: go on without
      this.trouble = e.name === 'QuotaExceededError' ? 'the browser has no room for the model: it will be fetched again next time' : `the browser keeps nothing here (${e.message})`;
      return false;
    }
  }

  /** What the manifest says; without a network, what it said last time. @returns {Promise<Manifest>} */
  async manifest() {
    let text;
    try {
      text = await patiently(MANIFEST, async () => {
        const response = await this.#ask(MANIFEST, 'no-cache');
        checkStatus(MANIFEST, response);
        return response.text();
      });
    } catch (e) {
      const kept = e.name === 'FetchError' && (await (await this.#open())?.match(this.url(MANIFEST)));
      if (!kept) throw e;
      text = await kept.text();
    }
    const manifest = readManifest(text);
    this.manifestText = text;
    return manifest;
  }

  /** Keep the manifest, as the sign that all it names is kept, and drop what it does not name: the version before. @param {Manifest} manifest */
  async settle(manifest) {
    const cache = await this.#open();
    if (!cache) return;
    if (this.manifestText) await this.keep(MANIFEST, new TextEncoder().encode(this.manifestText));
    const named = new Set([MANIFEST, ...manifest.weights.map((f) => f.path), ...manifest.files.map((f) => f.path)].map((p) => this.url(p)));
    for (const request of await cache.keys()) if (!named.has(request.url)) await cache.delete(request);
  }

  /** @param {Manifest} manifest @returns {Promise<Set<string>>} paths that are kept; their bytes are looked at when they are used */
  async kept(manifest) {
    const files = [...manifest.weights, ...manifest.files].map((f) => f.path);
    try {
      const cache = await this.#open(), last = await cache?.match(this.url(MANIFEST));
      if (last && (await last.text()) === this.manifestText) return new Set(files); // quick: WebKit reads everything to list the keys
      const urls = new Set((await cache?.keys())?.map((r) => r.url));
      return new Set(files.filter((p) => urls.has(this.url(p))));
    } catch {
      return new Set();
    }
  }
}

/** @param {File} f @param {string} base */
const soundPath = (f) => typeof f.path === 'string' && /^[\w.-]+(\/[\w.-]+)*$/.test(f.path) && !f.path.split('/').some((p) => /^\.+$/.test(p));
const soundSizes = (f) => [f.bytes, f.stored].every((n) => Number.isSafeInteger(n) && n >= 0) && /^[0-9a-f]{64}$/.test(f.sha256);

/** @param {string} text @returns {Manifest} */
export function readManifest(text) {
  const wrong = (why) => bundleError(`${MANIFEST}: ${why}: copy the bundle to the server again`);
  let m;
  try {
    m = JSON.parse(text);
  } catch {
    throw wrong(text.trimStart().startsWith('{') ? 'is cut short or damaged' : 'is no JSON');
  }
  if (m?.manifest_version !== 1) throw wrong(`has version ${m?.manifest_version}, this page reads 1`);
  for (const f of [...(m.weights ?? []), ...(m.files ?? [])]) if (!soundPath(f) || !soundSizes(f)) throw wrong(`its entry for ${f.path} is not sound`);
  let at = 0;
  for (const w of m.weights ?? []) {
    if (w.offset !== at || !/^[0-9a-f]{64}$/.test(w.raw_sha256)) throw wrong(`its entry for ${w.path} is not sound`);
    at += w.bytes;
  }
  if (!at || at !== m.model?.bytes) throw wrong(`its weights add up to ${at} bytes, not ${m.model?.bytes}`);
  for (const v of m.engine?.variants ?? []) if (!m.files.some((f) => f.path === v.path)) throw wrong(`it does not list ${v.path}`);
  if (!m.engine?.variants?.some((v) => !v.threads) || !m.self_test?.prompt_ids?.length) throw wrong('it names no engine or no self-test');
  return m;
}

/** @param {Manifest} manifest @param {string} role @returns {File | undefined} */
export const byRole = (manifest, role) => manifest.files.find((f) => f.role === role);
