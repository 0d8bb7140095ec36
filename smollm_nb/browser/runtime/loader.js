/**
 * A worker that loads its share of the weights: fetch, verify, inflate, straight into shared memory, or by transfer
 * where there is none. It begins to fetch as soon as it knows its chunks, and inflates as soon as it knows the memory.
 */
import { toPlain } from './errors.js';
import { Store } from './store.js';

import './manifest.js'; // what the store imports, asked for at once
import './sha256.js';

const LANES = 2; // chunks on the way at once: one is fetched while another is inflated
const PROGRESS_BYTES = 1 << 18; // progress is reported in steps of this
// after that each chunk is kept as it comes, so that a second try goes on from there; a faster load keeps them when it
// is done
const EAGER_MS = 1000;

// that travel to the engine's worker and back: while that is busy, no more than these wait for it
const BUFFERS = LANES + 1;

/**
 * Where chunks go: their offsets in shared memory, or buffers that come back when they were copied.
 * @param {MessagePort} port
 */
function destinationsOf(port) {
  const free = Array.from({ length: BUFFERS }, () => new Uint8Array());
  const waiting = [];
  let resolveMemory;
  const memory = new Promise((resolve) => {
    resolveMemory = resolve;
  });
  port.onmessage = ({ data }) => {
    if (!data.back) return resolveMemory(data.memory && new Uint8Array(data.memory.buffer, data.at, data.size));
    free.push(data.back);
    waiting.shift()?.();
  };
  /** @param {import('./manifest.js').Chunk} chunk */
  return async ({ offset, bytes }) => {
    const shared = await memory;
    if (shared) return shared.subarray(offset, offset + bytes);
    while (!free.length) await new Promise((resolve) => waiting.push(resolve));
    const { buffer } = /** @type {Uint8Array} */ (free.pop());
    return buffer.byteLength < bytes ? new Uint8Array(bytes) : new Uint8Array(buffer, 0, bytes);
  };
}

/**
 * @param {Store} store
 * @param {import('./manifest.js').Chunk} chunk
 * @param {ReturnType<typeof destinationsOf>} destination
 * @param {number} begin
 * @param {MessagePort} port
 */
async function loadChunk(store, chunk, destination, begin, port) {
  let pending = 0;
  const { bytes, cached } = await store.chunk(
    chunk,
    () => destination(chunk),
    (n) => {
      pending += n;
      if (n > 0 && pending < PROGRESS_BYTES) return;
      port.postMessage({ progress: pending });
      pending = 0;
    },
    () => port.postMessage({ missing: chunk.path }),
  );
  if (pending) port.postMessage({ progress: pending });
  const shared = !(bytes.buffer instanceof ArrayBuffer);
  const kept = cached || (performance.now() - begin > EAGER_MS && (await store.keep(chunk.path, bytes)));
  const done = { path: chunk.path, offset: chunk.offset, cached, kept, trouble: store.trouble };
  if (shared) port.postMessage({ done });
  else port.postMessage({ done, bytes }, { transfer: [bytes.buffer] });
}

/**
 * @param {{base: string, files?: Record<string, Blob>, chunks: import('./manifest.js').Chunk[]}} share
 * @param {MessagePort} port
 */
async function loadChunks({ base, files, chunks }, port) {
  const begin = performance.now();
  const store = new Store(new URL(base), files);
  const destination = destinationsOf(port);
  const lane = async () => {
    for (let chunk; (chunk = chunks.shift()); ) await loadChunk(store, chunk, destination, begin, port);
  };
  try {
    await Promise.all(Array.from({ length: LANES }, lane));
  } catch (e) {
    chunks.length = 0;
    port.postMessage({ error: toPlain(e) });
  }
}

onmessage = ({ data: { port } }) => {
  port.onmessage = ({ data }) => loadChunks(data, port); // the messages after it are about destinations
};
postMessage({ here: true });
