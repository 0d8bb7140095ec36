/**
 * Models for the test pages: loaded from a site with a fault, held against what Python and the native engine say of
 * them.
 */
import { sha256 } from '/bundle/sha256.js';
import { equal } from './check.js';

export const expected = await (await fetch('expected.json')).json();
export const shared = crossOriginIsolated && typeof SharedArrayBuffer !== 'undefined';
const OWN_SCRIPTS = ['quota', 'no-threads']; // these sites have a runtime of their own

/**
 * @param {string} site
 * @param {any} [options]
 * @param {boolean} [own] whether its runtime is loaded, too
 */
export async function load(site, options, own = OWN_SCRIPTS.includes(site)) {
  const { WasmModelLoader } = await import(`/${own ? site : 'bundle'}/smollm.js`);
  return new WasmModelLoader().load_quantized_model(`/${site}/`, options);
}

export const hash = async (logits) => sha256(new Uint8Array(logits.buffer));

/** A model for the time of a check. */
export async function using(site, options, run) {
  const model = await load(site, options);
  try {
    return await run(model);
  } finally {
    model.dispose();
  }
}

/** Works, and gives the right logits. */
export async function works(model) {
  const c = expected.greedy[0];
  equal(await hash(await model.logits(c.prompt_ids)), c.logits_sha256, 'logits');
}

/**
 * @param {string} url
 * @returns {HTMLIFrameElement}
 */
export const frame = (url) => document.body.appendChild(Object.assign(document.createElement('iframe'), { src: url }));

/**
 * What a frame posts.
 * @param {HTMLIFrameElement} f
 * @returns {Promise<any>}
 */
export const said = (f) =>
  new Promise((resolve, reject) => {
    window.addEventListener('message', ({ source, data }) => {
      if (source !== f.contentWindow) return;
      if (data.error) reject(new Error(data.error));
      else resolve(data);
      f.remove();
    });
  });

/**
 * @param {Record<string, string>} how as tab.js wants it
 * @param {string} [origin] of the frame
 */
export const tab = (how, origin = '') => said(frame(`${origin}/tests/tab.html?${new URLSearchParams(how)}`));
