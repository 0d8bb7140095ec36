/** A worker that brings its share of the weights: fetch, verify, inflate, straight into shared memory, or by transfer where there is none. */
import { toPlain } from './errors.js';
import { Store } from './store.js';

const LANES = 2; // chunks on the way at once: one is fetched while another is inflated
const SAY_BYTES = 1 << 18; // progress is reported in steps of this
const EAGER_MS = 1000; // after that each chunk is kept as it comes, so that a second try goes on from there; a faster load keeps them when it is done

/** @param {Store} store @param {import('./store.js').File} chunk @param {Uint8Array | null} weights @param {number} begin @param {MessagePort} port */
async function bring(store, chunk, weights, begin, port) {
  let unsaid = 0;
  const { bytes, cached } = await store.chunk(chunk, (n) => {
    unsaid += n;
    if (n > 0 && unsaid < SAY_BYTES) return;
    port.postMessage({ progress: unsaid });
    unsaid = 0;
  });
  if (unsaid) port.postMessage({ progress: unsaid });
  weights?.set(bytes, chunk.offset);
  const kept = cached || (performance.now() - begin > EAGER_MS && (await store.keep(chunk.path, bytes)));
  const done = { path: chunk.path, offset: chunk.offset, cached, kept, trouble: store.trouble };
  if (weights) port.postMessage({ done });
  else port.postMessage({ done, bytes }, { transfer: [bytes.buffer] });
}

onmessage = async ({ data: { init: { base, files, chunks, memory, at, size }, port } }) => {
  const begin = performance.now(), store = new Store(new URL(base), files), weights = memory ? new Uint8Array(memory.buffer, at, size) : null;
  const lane = async () => {
    for (let chunk; (chunk = chunks.shift());) await bring(store, chunk, weights, begin, port);
  };
  try {
    await Promise.all(Array.from({ length: LANES }, lane));
  } catch (e) {
    chunks.length = 0;
    port.postMessage({ error: toPlain(e) });
  }
};
