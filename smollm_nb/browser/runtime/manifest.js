/**
 * A bundle's manifest is believed only as far as it is sound: no size that is out of bounds, no path outside the
 * folder, no entry without its hash.
 */
import { bundleError } from './errors.js';

const VERSION = 1;
const MODEL_BYTES = 2 ** 32;
const FILE_BYTES = 2 ** 28;
const FILES = 4096; // the kernel counts in 32 bits; a chunk has four megabytes

/**
 * @typedef {object} File an entry of the manifest
 * @property {string} path
 * @property {string} sha256 of the bytes as they are stored
 * @property {number} stored bytes
 * @property {number} bytes after gzip was undone
 * @property {string} [raw_sha256] of these, for every .gz
 * @property {number} [offset] of a chunk in the model's file; no other file has one
 * @property {string} [role]
 */

/**
 * @typedef {File & {offset: number}} Chunk of the weights
 * @typedef {{name: string, version: string, weights: Chunk[], files: File[], [key: string]: any}} Manifest
 */

const isRecord = (v) => typeof v === 'object' && v !== null && !Array.isArray(v);
const isHash = (v) => typeof v === 'string' && /^[0-9a-f]{64}$/.test(v);
const isCount = (v, most) => Number.isSafeInteger(v) && v >= 0 && v <= most;
const isIds = (v) => Array.isArray(v) && v.length > 0 && v.every((id) => isCount(id, 2 ** 31));
const isPath = (v) =>
  typeof v === 'string' && /^[\w.-]+(\/[\w.-]+)*$/.test(v) && !v.split('/').some((p) => /^\.+$/.test(p));
const list = (v) => (Array.isArray(v) ? v : []);

/** @param {any} f */
const isFile = (f) =>
  isRecord(f) &&
  isPath(f.path) &&
  isCount(f.bytes, FILE_BYTES) &&
  isCount(f.stored, FILE_BYTES) &&
  isHash(f.sha256) &&
  (f.raw_sha256 === undefined ? !f.path.endsWith('.gz') : isHash(f.raw_sha256));

/**
 * @param {any} m
 * @returns {string} what is wrong with its lists of files; "" if nothing is
 */
function wrongFiles(m) {
  const weights = list(m.weights);
  const files = list(m.files);
  const all = [...weights, ...files];
  const names = all.map((f) => f?.path);
  if (all.length > FILES) return `lists ${all.length} files`;
  const odd = all.findIndex((f) => !isFile(f));
  if (odd >= 0) return `its entry for ${names[odd] ?? `file ${odd}`} is not sound`;
  const twice = names.find((n, i) => names.indexOf(n) !== i);
  if (twice) return `lists ${twice} twice`;
  let at = 0;
  for (const w of weights) {
    if (w.offset !== at || !w.raw_sha256 || !w.bytes) return `its entry for ${w.path} is not sound`;
    at += w.bytes;
  }
  return !at || at > MODEL_BYTES || at !== m.model?.bytes
    ? `its weights add up to ${at} bytes, not ${m.model?.bytes}`
    : '';
}

/**
 * @param {any} m
 * @returns {string} what is wrong with the rest; "" if nothing is
 */
function wrongFacts(m) {
  const variants = list(m.engine?.variants);
  const paths = new Set(list(m.files).map((f) => f.path));
  const lost = variants.findIndex((v) => !paths.has(v?.path) || typeof v.name !== 'string');
  if (lost >= 0) return `it does not list ${variants[lost]?.path ?? `kernel ${lost}`}`;
  const { prompt_ids, greedy_ids, logits_sha256 } = m.self_test ?? {};
  if (!variants.some((v) => !v.threads) || !isIds(prompt_ids) || !isIds(greedy_ids) || !isHash(logits_sha256))
    return 'it names no engine or no self-test';
  const { weights, context, arena } = m.memory ?? {};
  const known =
    isRecord(arena) &&
    Object.values(arena).every((n) => isCount(n, MODEL_BYTES)) &&
    isCount(weights, MODEL_BYTES) &&
    isCount(context, 2 ** 20);
  if (!known || !context) return 'says nothing about memory';
  return typeof m.name === 'string' && typeof m.version === 'string' && isCount(m.parameters, 1e12)
    ? ''
    : 'it does not say which model it is of';
}

/**
 * @param {string} text
 * @returns {Manifest} raises a BundleError
 */
export function readManifest(text) {
  const wrong = (why) => bundleError(`model_manifest.json: ${why}: copy the bundle to the server again`);
  let m;
  try {
    m = JSON.parse(text);
  } catch {
    throw wrong(text.trimStart().startsWith('{') ? 'is cut short or damaged' : 'is no JSON');
  }
  if (m?.manifest_version !== VERSION) throw wrong(`has version ${m?.manifest_version}, this page reads ${VERSION}`);
  const why = wrongFiles(m) || wrongFacts(m);
  if (why) throw wrong(why);
  return m;
}
