/**
 * Which build of the kernel runs, on how many threads, in how much memory: known from the manifest, before anything
 * large is fetched.
 */
import { bundleError, parameterError } from './errors.js';

const MAX_THREADS = 8;
const MAX_CONTEXT = 65536;
const CONTEXT = 2048; // where nobody chooses
const LEAST_CONTEXT = 512;
const OWN_BYTES = 45e6; // of the browser's processes for this page: scripts, tokenizer, buffers on the way

/**
 * @typedef {import('./store.js').Store} Store
 * @typedef {import('./manifest.js').Manifest} Manifest
 * @typedef {{variant: string, path: string, threads: number, why: string}} Choice
 */

/** Cores that are worth a thread: all of two, half of more, because those are often two to a core, or slow ones. */
const cores = () => {
  const n = navigator.hardwareConcurrency || 1;
  return n <= 2 ? n : Math.min(Math.max(2, n >> 1), MAX_THREADS);
};

/** What keeps this page from sharing memory between threads, "" if nothing does. */
function whyNotShared() {
  if (!globalThis.isSecureContext) return 'threads need HTTPS or localhost';
  if (!globalThis.crossOriginIsolated)
    return 'the page is not cross-origin isolated, its server sends no COOP and COEP headers';
  return globalThis.SharedArrayBuffer ? '' : 'this browser shares no memory between threads';
}

const asCount = (name, v, high) => {
  if (!Number.isInteger(v) || v < 1 || v > high)
    throw parameterError(`${name}=${v} must be a whole number in 1..${high}`);
  return v;
};

/** A module of one relaxed instruction: engines that lack them refuse it. */
const RELAXED = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15,
  253, 128, 2, 11,
]);

/**
 * The ways to run, the best first: the last always works. The manifest lists the builds in the order of preference.
 * @param {Manifest} manifest
 * @param {number} [threads] that compute
 * @param {string} [hindrance] to sharing memory
 * @param {boolean} [relaxed] whether the browser has relaxed SIMD
 * @returns {Choice[]}
 */
export function choices(manifest, threads, hindrance = whyNotShared(), relaxed = WebAssembly.validate(RELAXED)) {
  const n = threads === undefined ? cores() : asCount('threads', threads, MAX_THREADS);
  const usable = manifest.engine.variants.filter((v) => relaxed || !v.relaxed);
  const many = usable.filter((v) => v.threads);
  const single = usable.filter((v) => !v.threads);
  const ways = (builds, count, why) => builds.map((v) => ({ variant: v.name, path: v.path, threads: count, why }));
  if (n === 1)
    return ways(single, 1, threads === 1 ? 'one thread, as asked for' : 'one thread: this machine has one core');
  if (!many.length) return ways(single, 1, 'one thread: the bundle has no build for more');
  if (hindrance) return ways(single, 1, `one thread: ${hindrance}`);
  return [
    ...ways(many, n, `${n} threads${threads ? ', as asked for' : ''}: the page is cross-origin isolated`),
    ...ways(single, 1, 'one thread'),
  ];
}

/**
 * @param {{positions: number}} config
 * @param {number} [context]
 * @returns {number} positions of the KV cache
 */
export function pickContext(config, context) {
  const limit = Math.min(config.positions, MAX_CONTEXT);
  return context === undefined ? Math.min(limit, CONTEXT) : asCount('context', context, limit);
}

/**
 * Lengths of context to choose from: doubled up to what the model knows.
 * @param {number} positions that it knows
 * @returns {number[]} rising
 */
export function offeredContexts(positions) {
  const limit = Math.min(positions, MAX_CONTEXT);
  const out = [];
  for (let n = LEAST_CONTEXT; n < limit; n *= 2) out.push(n);
  return [...out, limit];
}

/**
 * The arena was measured at one length of context; its share of keys and values grows with the context.
 * @param {Manifest} manifest
 * @param {number} threads
 * @param {number} [context]
 * @returns {number} bytes that the page will take at most
 */
export function predictMemory(manifest, threads, context) {
  const { arena, context: positions, weights, kv } = manifest.memory ?? {};
  const known = Object.keys(arena ?? {})
    .map(Number)
    .sort((a, b) => a - b);
  if (!known.length) throw bundleError('model_manifest.json: says nothing about memory: export the bundle again');
  const bytes = arena[known.find((n) => n >= threads) ?? known[known.length - 1]];
  const growing = kv ?? bytes;
  return Math.round(weights + bytes + growing * ((context ?? positions) / positions - 1) + OWN_BYTES);
}

const ROLES = ['tokenizer', 'tokenizer_config', 'config', 'chat_template'];

/**
 * The files that a model is made of.
 * @param {Manifest} manifest
 * @param {{path: string}} choice
 */
const wanted = (manifest, { path }) => [
  ...manifest.weights,
  ...manifest.files.filter((f) => (f.role && ROLES.includes(f.role)) || f.path === path),
];

/**
 * What is known before anything large is fetched.
 * @param {Store} store
 * @param {Manifest} manifest
 * @param {{threads?: number, context?: number, exact?: boolean}} request `exact`: as for `Store.kept`
 * @returns {Promise<import('./smollm.js').Plan>}
 */
export async function plan(store, manifest, { threads, context, exact = false }) {
  const [choice] = choices(manifest, threads);
  const kept = await store.kept(manifest, exact);
  const needed = wanted(manifest, choice);
  const sum = (files) => files.reduce((n, f) => n + f.stored, 0);
  const { positions = CONTEXT } = manifest.memory ?? {};
  const memory = (tokens) => predictMemory(manifest, choice.threads, tokens);
  const contexts = offeredContexts(positions).map((tokens) => ({ tokens, memory: memory(tokens) }));
  return {
    context: pickContext({ positions }, context),
    contexts,
    name: manifest.name,
    version: manifest.version,
    parameters: manifest.parameters,
    variant: choice.variant,
    threads: choice.threads,
    why: choice.why,
    total: sum(needed),
    cached: sum(needed.filter((f) => kept.has(f.path))),
    memory: memory(context),
    trouble: store.trouble,
    notes: [...(choice.threads < (threads ?? cores()) ? [choice.why] : []), ...store.notes],
  };
}
