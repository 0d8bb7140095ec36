/**
 * The service worker: the page itself works offline, and gets the headers that threads need where its host sends none.
 *
 * Each version of the page is kept in a cache of its own, filled whole with bytes that were verified against the
 * manifest's hashes. A new version takes over at once, when a page is opened; a page that is open keeps the one that it
 * began with, its workers too. Weights, tokenizer and kernel are none of its business: store.js fetches, verifies and
 * keeps them.
 */
const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));
const SCOPE = new URL(worker.registration.scope);
const STATE = `smollm_nb shells ${SCOPE.pathname}`;
const SHELL = `smollm_nb shell ${SCOPE.pathname}`; // SHELL, a space, a version
const MANIFEST = 'model_manifest.json';
const INDEX = 'index.html';
const ROLES = ['page', 'module', 'vendor'];
const PATIENCE_MS = 4000; // for a newer version, when a page is opened
const ASK_MS = 30000; // for one file
const INSTALL_MS = 15000; // for the first one: headers are wanted even where it cannot be filled
const OPENING_MS = 60000; // after which a page that was opened is listed among the clients, or never
const MANIFEST_BYTES = 1 << 22;
const FILE_BYTES = 1 << 26;
const TYPES = {
  js: /^(text|application)\/(x-)?(java|ecma)script\b/,
  html: /^text\/html\b/,
  css: /^text\/css\b/,
  json: /\bjson\b/,
};

/**
 * @typedef {{path: string, role: string, stored: number, sha256: string}} Entry an entry of the manifest
 * @typedef {{current: string, clients: Record<string, string>}} State the version for new pages, "" if there is none;
 *   that of each open page or worker
 */

const url = (path) => new URL(path, SCOPE).href;
const cacheName = (version) => `${SHELL} ${version}`;
const sleep = (ms) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

/** @param {ArrayBuffer | Uint8Array<ArrayBuffer>} bytes */
async function digest(bytes) {
  return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), (b) =>
    b.toString(16).padStart(2, '0'),
  ).join('');
}

// ---- what is kept ---------------------------------------------------------------------------------------------------

/** @type {Promise<State> | undefined} */
let remembered;

/**
 * Pages and workers that the browser does not list yet, and since when, ms.
 * @type {Map<string, {since: number, page: boolean}>}
 */
const opening = new Map();

async function readState() {
  const kept = await (await caches.open(STATE)).match(url('state'));
  const { current = '', clients = {} } = kept ? await kept.json() : {};
  return { current: current && (await caches.has(cacheName(current))) ? current : '', clients };
}

/** The state outlives this worker, which the browser ends when it likes. */
function state() {
  remembered ??= readState().catch(() => ({ current: '', clients: {} }));
  return remembered;
}

/** @param {State} now */
async function remember(now) {
  await (await caches.open(STATE)).put(url('state'), new Response(JSON.stringify(now)));
}

/**
 * @param {string} version
 * @param {string} path
 * @returns {Promise<Response | undefined>}
 */
async function fromShell(version, path) {
  return (await caches.has(cacheName(version))) ? (await caches.open(cacheName(version))).match(url(path)) : undefined;
}

// ---- a new version --------------------------------------------------------------------------------------------------

/**
 * A file as the server has it; whatever is not what the manifest says counts as no answer.
 * @param {string} path
 * @param {number} most bytes
 */
async function ask(path, most) {
  const response = await fetch(url(path), { cache: 'no-cache', signal: AbortSignal.timeout(ASK_MS) });
  const type = response.headers.get('Content-Type') ?? '';
  const wanted = TYPES[path.split('.').at(-1)];
  if (!response.ok || (wanted && !wanted.test(type))) throw new Error(`${path}: ${response.status} ${type}`);
  const bytes = await response.arrayBuffer();
  if (bytes.byteLength > most) throw new Error(`${path}: ${bytes.byteLength} bytes`);
  return { response, bytes };
}

/**
 * The same response, its body known.
 * @param {Response} response
 * @param {ArrayBuffer} bytes
 */
function withBody({ headers: given, status }, bytes) {
  const headers = new Headers(given);
  for (const name of ['Content-Encoding', 'Content-Length', 'Transfer-Encoding']) headers.delete(name);
  return new Response(bytes, { status, headers });
}

/**
 * @param {any} f
 * @returns {f is Entry}
 */
const isSound = (f) =>
  typeof f?.path === 'string' &&
  typeof f.sha256 === 'string' &&
  url(f.path).startsWith(SCOPE.href) &&
  f.stored <= FILE_BYTES;

/**
 * What the server has now.
 * @returns {Promise<{version: string, files: Entry[], response: Response, bytes: ArrayBuffer}>}
 */
async function newest() {
  const { response, bytes } = await ask(MANIFEST, MANIFEST_BYTES);
  const manifest = JSON.parse(new TextDecoder().decode(bytes));
  const files = manifest.files.filter((f) => ROLES.includes(f?.role));
  if (!files.length || !files.every(isSound)) throw new Error(`${MANIFEST}: no list of files`);
  const said = await digest(new TextEncoder().encode(files.map((f) => `${f.path} ${f.sha256}\n`).join('')));
  return { version: `${encodeURIComponent(manifest.version)}-${said.slice(0, 8)}`, files, response, bytes };
}

/** The files of one version in its cache, the manifest last: it is the sign that all are there. */
async function fill({ version, files, response, bytes }) {
  const shell = await caches.open(cacheName(version));
  const { current } = await state();
  const old = current ? await caches.open(cacheName(current)) : null;
  const known = new Map(
    ((await (await old?.match(url(MANIFEST)))?.json())?.files ?? []).map((f) => [f.path, f.sha256]),
  );
  await Promise.all(
    files.map(async ({ path, sha256, stored }) => {
      const same = known.get(path) === sha256 ? await old?.match(url(path)) : undefined;
      if (same) return shell.put(url(path), same);
      const got = await ask(path, stored);
      if ((await digest(got.bytes)) !== sha256) throw new Error(`${path}: other bytes than the manifest says`);
      await shell.put(url(path), withBody(got.response, got.bytes));
    }),
  );
  await shell.put(url(MANIFEST), withBody(response, bytes));
}

/** Take a newer version where the server has one, whole, or leave all as it is. */
async function update() {
  const found = await newest();
  const now = await state();
  if (found.version === now.current) return;
  await fill(found);
  now.current = found.version;
  await remember(now);
}

/** Versions that no open page has go. */
async function deleteOldVersions() {
  const now = await state();
  const open = new Set((await worker.clients.matchAll({ type: 'all', includeUncontrolled: true })).map((c) => c.id));
  for (const [id, { since }] of opening) if (open.has(id) || performance.now() - since > OPENING_MS) opening.delete(id);
  const clients = Object.entries(now.clients).filter(([id]) => open.has(id) || opening.has(id));
  now.clients = Object.fromEntries(clients);
  const needed = clients.filter(([id]) => open.has(id) || opening.get(id)?.page); // a worker's page needs the same
  const used = new Set([now.current, ...needed.map(([, version]) => version)].map(cacheName));
  for (const name of await caches.keys()) {
    if (name === SHELL || (name.startsWith(`${SHELL} `) && !used.has(name))) await caches.delete(name);
  }
  await remember(now);
}

/** @type {{done: Promise<void>, over: Promise<void>} | null} */
let updating = null;

/**
 * One update at a time: where the server is down, or half copied, the version before goes on.
 * @returns {{done: Promise<void>, over: Promise<void>}} when the newest version is known; when what is old has gone too
 */
function refresh() {
  if (updating) return updating;
  const done = update().catch(() => {});
  const over = done
    .then(deleteOldVersions)
    .catch(() => {})
    .finally(() => {
      updating = null;
    });
  updating = { done, over };
  return updating;
}

// ---- answers --------------------------------------------------------------------------------------------------------

/** The response, isolated from other origins. @param {Response} response */
function isolated(response) {
  if (response.status === 0 || response.type === 'opaqueredirect') return response;
  const headers = new Headers(response.headers);
  headers.set('Cross-Origin-Opener-Policy', 'same-origin');
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp');
  headers.set('Cross-Origin-Resource-Policy', 'same-origin');
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/**
 * @param {Request} request
 * @returns {string} its path in the folder
 */
const pathOf = (request) => new URL(request.url).pathname.slice(SCOPE.pathname.length) || INDEX;

/**
 * The version that a page or a worker goes on with.
 * @param {string} id of the client
 * @param {string} version
 * @param {boolean} page
 */
async function bind(id, version, page) {
  const now = await state();
  if (!id || !version || now.clients[id] === version) return;
  now.clients[id] = version;
  opening.set(id, { since: performance.now(), page });
  await remember(now);
}

/** A page is opened. @param {FetchEvent} event */
async function open(event) {
  const { done, over } = refresh();
  event.waitUntil(over);
  if ((await state()).current) await Promise.race([done, sleep(PATIENCE_MS)]);
  const { current } = await state();
  const kept = current && (await fromShell(current, pathOf(event.request)));
  event.waitUntil(bind(event.resultingClientId, current, true));
  return isolated(kept || (await fetch(event.request)));
}

/** A part of a page, or of a worker, in the version that this one has. @param {FetchEvent} event */
async function part(event) {
  const { current, clients } = await state();
  const version = clients[event.clientId] ?? current;
  event.waitUntil(bind(event.clientId, version, true));
  event.waitUntil(bind(event.resultingClientId, version, false)); // the worker that this script starts
  const kept = version && (await fromShell(version, pathOf(event.request)));
  return isolated(kept || (await fetch(event.request)));
}

worker.addEventListener('install', (event) =>
  event.waitUntil(Promise.race([refresh().over, sleep(INSTALL_MS)]).then(() => worker.skipWaiting())),
);
worker.addEventListener('activate', (event) => event.waitUntil(worker.clients.claim()));
worker.addEventListener('fetch', (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== 'GET' || origin !== SCOPE.origin || !pathname.startsWith(SCOPE.pathname)) return;
  if (request.mode === 'navigate') event.respondWith(open(event));
  else if (['script', 'worker', 'style', 'image'].includes(request.destination) || pathOf(request) === MANIFEST)
    event.respondWith(part(event));
});
