/** Which build of the kernel runs, on how many threads, in how much memory: known from the manifest, before anything large is fetched. */
import { bundleError, parameterError } from './errors.js';

const MAX_THREADS = 8, MAX_CONTEXT = 65536, CONTEXT = 2048;
const OWN_BYTES = 45e6; // of the browser's processes for this page: scripts, tokenizer, buffers on the way

/** @typedef {import('./store.js').Store} Store @typedef {{variant: string, path: string, threads: number, why: string}} Choice */

/** Cores that are worth a thread: all of two, half of more, because those are often two to a core, or slow ones. */
const cores = () => {
  const n = navigator.hardwareConcurrency || 1;
  return n <= 2 ? n : Math.min(Math.max(2, n >> 1), MAX_THREADS);
};

/** What keeps this page from sharing memory between threads, "" if nothing does. */
function whyNotShared() {
  if (!globalThis.isSecureContext) return 'threads need HTTPS or localhost';
  if (!globalThis.crossOriginIsolated) return 'the page is not cross-origin isolated, its server sends no COOP and COEP headers';
  return globalThis.SharedArrayBuffer ? '' : 'this browser shares no memory between threads';
}

const whole = (name, v, high) => {
  if (!Number.isInteger(v) || v < 1 || v > high) throw parameterError(`${name}=${v} must be a whole number in 1..${high}`);
  return v;
};

/**
 * The ways to run, the best first: the last always works.
 * @param {any} manifest @param {number} [threads] that compute @param {string} [hindrance] to sharing memory @returns {Choice[]}
 */
export function choices(manifest, threads, hindrance = whyNotShared()) {
  const n = threads === undefined ? cores() : whole('threads', threads, MAX_THREADS);
  const find = (threaded) => manifest.engine.variants.find((v) => v.threads === threaded);
  const single = (why) => ({ variant: find(false).name, path: find(false).path, threads: 1, why });
  if (n === 1) return [single(threads === 1 ? 'one thread, as asked for' : 'one thread: this machine has one core')];
  if (!find(true)) return [single('one thread: the bundle has no build for more')];
  if (hindrance) return [single(`one thread: ${hindrance}`)];
  const many = { variant: find(true).name, path: find(true).path, threads: n, why: `${n} threads${threads ? ', as asked for' : ''}: the page is cross-origin isolated` };
  return [many, single('one thread')];
}

/** @param {{positions: number}} config @param {number} [context] @returns {number} positions of the KV cache */
export function pickContext(config, context) {
  const limit = Math.min(config.positions, MAX_CONTEXT);
  return context === undefined ? Math.min(limit, CONTEXT) : whole('context', context, limit);
}

/** @param {any} manifest @param {number} threads @param {number} [context] @returns {number} bytes that the page will take at most */
export function predictMemory(manifest, threads, context) {
  const { arena, context: positions, weights } = manifest.memory ?? {};
  const known = Object.keys(arena ?? {}).map(Number).sort((a, b) => a - b);
  if (!known.length) throw bundleError('model_manifest.json: says nothing about memory: export the bundle again');
  const bytes = arena[known.find((n) => n >= threads) ?? known.at(-1)];
  return Math.round(weights + bytes * Math.max(1, (context ?? positions) / positions) + OWN_BYTES);
}

const ROLES = ['tokenizer', 'tokenizer_config', 'config', 'chat_template'];

/** The files that a model is made of. @param {any} manifest @param {{path: string}} choice */
const wanted = (manifest, { path }) => [...manifest.weights, ...manifest.files.filter((f) => ROLES.includes(f.role) || f.path === path)];

/** What is known before anything large is fetched. @param {Store} store @param {any} manifest @param {{threads?: number, context?: number}} request */
export async function plan(store, manifest, { threads, context }) {
  const [choice] = choices(manifest, threads), kept = await store.kept(manifest), needed = wanted(manifest, choice);
  const sum = (files) => files.reduce((n, f) => n + f.stored, 0);
  return {
    name: manifest.name, version: manifest.version, parameters: manifest.parameters, variant: choice.variant, threads: choice.threads, why: choice.why,
    total: sum(needed), cached: sum(needed.filter((f) => kept.has(f.path))), memory: predictMemory(manifest, choice.threads, context), trouble: store.trouble,
  };
}
