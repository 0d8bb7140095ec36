/**
 * The bundle's files: fetched with patience, verified by SHA-256 before anyone sees them, kept in the browser's cache.
 * What is served as gzip is kept inflated, so that a warm start only reads and hashes.
 */
import { bundleError, engineError, fetchError } from './errors.js';
import { readManifest } from './manifest.js';
import { sha256 } from './sha256.js';

export const MANIFEST = 'model_manifest.json';
const RETRY_MS = [250, 500, 1000, 2000]; // pauses after which a request that failed is tried again
const STALL_MS = 20000; // without a byte: as good as a broken connection
const PATIENCE_MS = 4000; // for the manifest, where one is kept: as long as the service worker has it for the page
const LIST_MS = 100; // for a list of what is kept; WebKit reads everything for it
const MANIFEST_BYTES = 1 << 22;

const BLOCKED =
  'this browser lets the page keep nothing (site data are blocked, or the page is a frame in another site), ' +
  'so the model is fetched at each visit';
const INSECURE = 'this page is no secure context (HTTPS or localhost), so the browser keeps nothing';
const CHOSEN = 'the files were chosen by hand, so the browser keeps nothing';

/**
 * @typedef {import('./manifest.js').File} File
 * @typedef {import('./manifest.js').Manifest} Manifest
 * @typedef {(bytes: number) => void} OnBytes called with how many bytes came; a negative number when they were lost
 */

const sleep = (ms) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

/**
 * What comes first: the promise, or an error after a silence.
 * @template T
 * @param {Promise<T>} promise
 * @param {number} [ms]
 * @returns {Promise<T>}
 */
async function withTimeout(promise, ms = STALL_MS) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new TypeError(`silent for ${ms / 1000} s`)), ms);
  });
  try {
    return await Promise.race([promise, silence]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Read a stream whose size is known.
 * @param {ReadableStream<Uint8Array>} stream
 * @param {Uint8Array} out at least as long
 * @param {number[]} sizes that it may have
 * @param {OnBytes} [onBytes]
 * @returns {Promise<Uint8Array>} the part of `out` that it filled
 */
async function readInto(stream, out, sizes, onBytes) {
  const reader = stream.getReader();
  const most = Math.max(...sizes);
  let at = 0;
  let seen = -1;
  let silent = false;
  const watch = setInterval(() => {
    // one for all of the stream: one for each of its pieces would cost more than the pieces
    silent = at === seen;
    seen = at;
    if (silent) reader.cancel().catch(() => {}); // ends the read that waits
  }, STALL_MS);
  try {
    for (let r; !(r = await reader.read()).done; at += r.value.length) {
      if (at + r.value.length > most)
        throw bundleError(`is longer than the ${sizes[0]} bytes that the manifest gives it`);
      out.set(r.value, at);
      onBytes?.(r.value.length);
    }
    if (silent) throw new TypeError(`silent for ${STALL_MS / 1000} s`);
    if (!sizes.includes(at)) throw new TypeError(`ended after ${at} of ${sizes[0]} bytes`);
  } catch (e) {
    reader.cancel().catch(() => {});
    throw e;
  } finally {
    clearInterval(watch);
  }
  return out.subarray(0, at);
}

/**
 * All of a stream that should be short.
 * @param {ReadableStream<Uint8Array>} stream
 * @param {number} most bytes
 * @returns {Promise<string>}
 */
async function readText(stream, most) {
  const reader = stream.getReader();
  const utf8 = new TextDecoder();
  let text = '';
  let at = 0;
  for (let r; !(r = await withTimeout(reader.read())).done; at += r.value.length) {
    if (at + r.value.length > most) {
      reader.cancel().catch(() => {});
      throw bundleError(`${MANIFEST}: is longer than ${most} bytes: copy the bundle to the server again`);
    }
    text += utf8.decode(r.value, { stream: true });
  }
  return text + utf8.decode();
}

/**
 * Counts what comes for one file, never more than the manifest says.
 * @param {number} stored bytes
 * @param {OnBytes} [onBytes]
 */
function counter(stored, onBytes) {
  let reported = 0;
  const report = (all) => {
    const now = Math.min(all, stored);
    if (now !== reported) onBytes?.(now - reported);
    reported = now;
  };
  let received = 0;
  return { add: (n) => report((received += n)), all: () => report(stored), lost: () => report(0) };
}

/**
 * @param {File} file
 * @returns {number} bytes that may come for it
 */
const most = (file) => Math.max(file.bytes, file.stored);

/** What is used and kept of a file: its bytes after gzip was undone. @param {File} file */
const used = ({ raw_sha256, sha256: digest, bytes, stored }) =>
  raw_sha256 ? { digest: raw_sha256, size: bytes } : { digest, size: stored };

/**
 * @param {string} name
 * @param {Response} response
 */
function checkStatus(name, response) {
  if (response.ok) return;
  if (response.status >= 500) throw new TypeError(`the server said ${response.status}`);
  const gone =
    'the server has no such file (404): copy the whole bundle there; if it was replaced just now, open the page again';
  const why = response.status === 404 ? gone : `the server refuses it (${response.status}): let it be read`;
  throw fetchError(`${name}: ${why}`);
}

/** Hosts that have a page for whatever is missing send that. @param {Response} response */
const isPage = (response) => /\bhtml\b/.test(response.headers.get('Content-Type') ?? '');
const pageInstead = () =>
  bundleError(
    'the server sent a web page in its place: copy the whole bundle there, or sign in where it asks for that',
  );

/**
 * Call `attempt` until it works, with pauses; what only the server's owner can mend is thrown at once.
 * @template T
 * @param {string} name
 * @param {() => Promise<T>} attempt
 * @returns {Promise<T>}
 */
async function withRetries(name, attempt) {
  for (let n = 0; ; n++) {
    try {
      return await attempt();
    } catch (e) {
      if (e.name === 'FetchError' || e.name === 'EngineError') throw e;
      // wrong bytes twice
      if (e.name === 'BundleError' && n) throw e.message.startsWith(name) ? e : bundleError(`${name}: ${e.message}`);
      if (n === RETRY_MS.length) {
        throw fetchError(
          `${name}: no answer after ${n + 1} tries (${e.message}): start the server or check the network, ` +
            'then load again; what is here already is kept',
        );
      }
    }
    await sleep(RETRY_MS[n]);
  }
}

/**
 * Undo gzip.
 * @param {Uint8Array} stored
 * @param {Uint8Array} out filled to its end
 */
export async function inflate(stored, out) {
  if (!globalThis.DecompressionStream)
    throw engineError('this browser cannot undo gzip (it has no DecompressionStream): use a newer one');
  const gunzip = new DecompressionStream('gzip');
  const writer = gunzip.writable.getWriter();
  writer.write(/** @type {Uint8Array<ArrayBuffer>} */ (stored)).catch(() => {}); // the reader throws the same error
  writer.close().catch(() => {});
  await readInto(gunzip.readable, out, [out.length]);
}

/**
 * The browser's caches; mere access throws where site data are blocked.
 * @returns {{caches: CacheStorage | null, trouble: string}}
 */
function browserCaches() {
  try {
    return globalThis.caches ? { caches: globalThis.caches, trouble: '' } : { caches: null, trouble: INSECURE };
  } catch {
    return { caches: null, trouble: BLOCKED };
  }
}

export class Store {
  /**
   * @param {URL} base the bundle's folder, with a slash at its end
   * @param {Record<string, Blob>} [files] by path, where no server has them
   */
  constructor(base, files) {
    this.base = base;
    this.files = files;
    const { caches, trouble } = browserCaches();
    this.caches = caches;
    /** @type {Promise<Cache> | undefined} */
    this.opened = undefined;
    /** Why the browser keeps nothing. */
    this.trouble = files ? CHOSEN : trouble;
    /** What a reader should know of the manifest. */
    this.note = '';
    this.cacheName = `smollm_nb ${base.origin === globalThis.origin ? '' : base.origin}${base.pathname}`;
    /** Paths that seem to be kept, once `kept` has looked. @type {Set<string>} */
    this.believed = new Set();
    /** Buffers to read into: fresh memory costs as much as reading. @type {Uint8Array[]} */
    this.spare = [];
    /** What goes from shared memory into the cache. @type {Uint8Array} */
    this.outside = new Uint8Array();
  }

  /** For a reader, a sentence each. @returns {string[]} */
  get notes() {
    return [this.note, this.trouble].filter(Boolean);
  }

  /** @param {Error} e what the cache threw */
  #refused(e) {
    if (e.name === 'QuotaExceededError')
      this.trouble = 'the browser has no room for the model: it will be fetched again next time';
    else this.trouble = e.name === 'SecurityError' ? BLOCKED : `the browser keeps nothing here (${e.message})`;
  }

  /** @returns {Promise<Cache | null>} */
  async #open() {
    if (this.trouble) return null;
    try {
      this.opened ??= /** @type {CacheStorage} */ (this.caches).open(this.cacheName);
      return await this.opened;
    } catch (e) {
      this.#refused(e);
      return null;
    }
  }

  /**
   * @param {string} path
   * @returns {string}
   */
  url(path) {
    return new URL(path, this.base).href;
  }

  /**
   * The bytes of a cached file, if they are there and right; wrong ones are thrown away.
   * @param {File} file
   * @param {Uint8Array} buffer
   */
  async #cached(file, buffer) {
    try {
      const cache = await this.#open();
      const hit = await cache?.match(this.url(file.path));
      const { digest, size } = used(file);
      if (!hit?.body) return null;
      const bytes = await readInto(hit.body, buffer, [size]).catch(() => null);
      if (bytes && (await sha256(bytes)) === digest) return bytes;
      // a kept manifest says that all it names is kept
      for (const gone of [MANIFEST, file.path]) await cache?.delete(this.url(gone));
    } catch {
      /* a cache that cannot be read is as good as none */
    }
    return null;
  }

  /**
   * What the server says, or the file that was chosen. A script that came from a blob has no referrer of its own, and
   * JupyterLab wants one.
   * @param {string} path
   * @param {RequestCache} cache
   * @returns {Promise<Response>}
   */
  async #ask(path, cache) {
    if (!this.files) return withTimeout(fetch(this.url(path), { cache, referrer: this.base.href }));
    if (!Object.hasOwn(this.files, path))
      throw fetchError(`${path} is not in the folder that was chosen: choose the whole bundle`);
    return new Response(this.files[path]);
  }

  /**
   * Fetch a file. Some hosts call a .gz encoded, and then the browser has undone it on the way: its hash tells which
   * form came.
   * @param {File} file
   * @param {Uint8Array} buffer
   * @param {OnBytes} [onBytes]
   * @returns {Promise<{bytes: Uint8Array, packed: boolean}>}
   */
  #fetch(file, buffer, onBytes) {
    const sizes = file.raw_sha256 ? [file.stored, file.bytes] : [file.stored];
    return withRetries(file.path, async () => {
      const response = await this.#ask(file.path, 'no-store');
      const count = counter(file.stored, onBytes);
      checkStatus(file.path, response);
      try {
        const bytes = await readInto(
          /** @type {ReadableStream<Uint8Array>} */ (response.body),
          buffer,
          sizes,
          count.add,
        );
        const digest = await sha256(bytes);
        if (digest !== file.sha256 && digest !== file.raw_sha256)
          throw bundleError('its bytes do not match their SHA-256: copy the bundle to the server again');
        count.all();
        return { bytes, packed: Boolean(file.raw_sha256) && digest === file.sha256 };
      } catch (e) {
        count.lost();
        throw isPage(response) ? pageInstead() : e;
      }
    });
  }

  /**
   * A chunk of the weights, verified and inflated.
   * @param {File} chunk
   * @param {() => Promise<Uint8Array>} destination gives (chunk.bytes,) to write to
   * @param {OnBytes} [onBytes]
   * @param {() => void} [onMissing] called before it is fetched
   * @returns {Promise<{bytes: Uint8Array, cached: boolean}>}
   */
  async chunk(chunk, destination, onBytes, onMissing) {
    const buffer = this.spare.find((b) => b.length >= most(chunk)) ?? new Uint8Array(most(chunk));
    this.spare = this.spare.filter((b) => b !== buffer);
    const hit = await this.#cached(chunk, buffer);
    if (hit) onBytes?.(chunk.stored);
    else onMissing?.();
    const { bytes: received, packed } = hit ? { bytes: hit, packed: false } : await this.#fetch(chunk, buffer, onBytes);
    const bytes = await destination();
    if (packed) await inflate(received, bytes);
    else bytes.set(received);
    this.spare.push(buffer);
    return { bytes, cached: Boolean(hit) };
  }

  /**
   * Any other file, gzip undone.
   * @param {File} file
   * @param {OnBytes} [onBytes]
   * @param {() => void} [onMissing] called before it is fetched
   * @returns {Promise<{bytes: Uint8Array, cached: boolean}>}
   */
  async file(file, onBytes, onMissing) {
    const buffer = new Uint8Array(most(file));
    const hit = await this.#cached(file, buffer);
    if (hit) {
      onBytes?.(file.stored);
      return { bytes: hit, cached: true };
    }
    onMissing?.();
    const { bytes, packed } = await this.#fetch(file, buffer, onBytes);
    if (!packed) return { bytes, cached: false };
    const out = new Uint8Array(file.bytes);
    await inflate(bytes, out);
    return { bytes: out, cached: false };
  }

  /**
   * Bytes that may go into a response, out of shared memory; the same buffer each time.
   * @param {Uint8Array} bytes
   * @returns {Uint8Array<ArrayBuffer>}
   */
  #unshared(bytes) {
    if (bytes.buffer instanceof ArrayBuffer) return /** @type {Uint8Array<ArrayBuffer>} */ (bytes);
    if (this.outside.length < bytes.length) this.outside = new Uint8Array(bytes.length);
    this.outside.set(bytes);
    return /** @type {Uint8Array<ArrayBuffer>} */ (this.outside.subarray(0, bytes.length));
  }

  /**
   * Keep bytes that were verified.
   * @param {string} path
   * @param {Uint8Array} bytes
   * @returns {Promise<boolean>} whether they are kept
   */
  async keep(path, bytes) {
    try {
      const cache = await this.#open();
      if (!cache) return false;
      await cache.put(
        this.url(path),
        new Response(this.#unshared(bytes), { headers: { 'Content-Length': String(bytes.length) } }),
      );
      return true;
    } catch (e) {
      // by now the memory holds all there is: go on without
      this.#refused(e);
      return false;
    }
  }

  /** @returns {Promise<string>} the manifest as the server has it now */
  async #freshText() {
    const response = await this.#ask(MANIFEST, 'no-cache');
    checkStatus(MANIFEST, response);
    const text = await readText(/** @type {ReadableStream<Uint8Array>} */ (response.body), MANIFEST_BYTES);
    if (isPage(response) && !text.trimStart().startsWith('{'))
      throw bundleError(`${MANIFEST}: is no JSON: ${pageInstead().message}`);
    readManifest(text);
    return text;
  }

  /** @returns {Promise<string | null>} the manifest of the version that is kept */
  async #keptText() {
    try {
      const hit = await (await this.#open())?.match(this.url(MANIFEST));
      const text = (await hit?.text()) ?? null;
      if (text !== null) readManifest(text);
      return text;
    } catch {
      // damaged, or a cache that cannot be read
      return null;
    }
  }

  /** What the manifest says; where the server gives none, what it said last time. @returns {Promise<Manifest>} */
  async manifest() {
    const begun = this.#freshText();
    begun.catch(() => {}); // whoever awaits it gets the error
    let first = /** @type {Promise<string> | null} */ (begun);
    const kept = await this.#keptText();
    const attempt = () => {
      const now = first ?? this.#freshText();
      first = null;
      return now;
    };
    if (kept === null) this.manifestText = await withRetries(MANIFEST, attempt);
    else {
      try {
        this.manifestText = await withTimeout(attempt(), PATIENCE_MS);
      } catch {
        // down, slow, or something else answers in its place
        this.manifestText = kept;
        this.note = "the server did not give the model's manifest, so the version that was kept is used";
      }
    }
    return readManifest(/** @type {string} */ (this.manifestText));
  }

  /**
   * Keep the manifest, as the sign that all it names is kept, and drop what it does not name: the version before.
   * @param {Manifest} manifest
   */
  async settle(manifest) {
    const cache = await this.#open();
    if (!cache) return;
    if (this.manifestText) await this.keep(MANIFEST, new TextEncoder().encode(this.manifestText));
    const named = new Set(
      [MANIFEST, ...manifest.weights.map((f) => f.path), ...manifest.files.map((f) => f.path)].map((p) => this.url(p)),
    );
    for (const request of await cache.keys()) if (!named.has(request.url)) await cache.delete(request);
  }

  /**
   * @param {Manifest} manifest
   * @param {boolean} [exact] whether to look at what is there, where that is quick, and not only at the sign that all
   *   is
   * @returns {Promise<Set<string>>} paths that are kept; their bytes are looked at when they are used
   */
  async kept(manifest, exact = false) {
    const files = [...manifest.weights, ...manifest.files].map((f) => f.path);
    try {
      const cache = await this.#open();
      const last = await cache?.match(this.url(MANIFEST));
      const complete = last !== undefined && (await last.text()) === this.manifestText;
      const list = async () => (await cache?.keys()) ?? [];
      const keys = !complete ? await list() : exact ? await Promise.race([list(), sleep(LIST_MS)]) : undefined;
      const urls = new Set(keys?.map((r) => r.url));
      this.believed = new Set(keys ? files.filter((p) => urls.has(this.url(p))) : files);
    } catch {
      this.believed = new Set();
    }
    return this.believed;
  }
}

/**
 * @param {Manifest} manifest
 * @param {string} role
 * @returns {File | undefined}
 */
export const byRole = (manifest, role) => manifest.files.find((f) => f.role === role);
