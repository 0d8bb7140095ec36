/**
 * The service worker: the page itself works offline, and gets the headers that threads need where its host sends none.
 * Weights, tokenizer and kernel are none of its business: store.js fetches, verifies and keeps them.
 */
const SHELL = `smollm_nb shell ${new URL(self.registration.scope).pathname}`;
const MANIFEST = 'model_manifest.json', PATIENCE_MS = 4000;
const ROLES = ['page', 'module', 'vendor'];

const url = (path) => new URL(path, self.registration.scope).href;

async function fill() {
  const manifest = await (await fetch(url(MANIFEST), { cache: 'no-cache' })).json();
  const paths = ['./', ...manifest.files.filter((f) => ROLES.includes(f.role)).map((f) => f.path)];
  const shell = await caches.open(SHELL);
  await Promise.all(paths.map(async (path) => {
    const response = await fetch(url(path), { cache: 'no-cache' });
    if (response.ok) await shell.put(url(path), response);
  }));
  await self.skipWaiting();
}

/** The response, isolated from other origins. @param {Response} response */
function isolated(response) {
  if (response.status === 0 || response.type === 'opaqueredirect') return response;
  const headers = new Headers(response.headers);
  headers.set('Cross-Origin-Opener-Policy', 'same-origin');
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp');
  headers.set('Cross-Origin-Resource-Policy', 'same-origin');
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** From the network; from the cache when that is down or slow. @param {Request} request */
async function answer(request) {
  const shell = await caches.open(SHELL), kept = await shell.match(request, { ignoreSearch: true });
  const network = fetch(request).then(async (response) => {
    if (response.ok && kept) await shell.put(request.url.split(/[?#]/)[0], response.clone());
    return response;
  });
  if (!kept) return isolated(await network);
  network.catch(() => {}); // the cache has answered by then
  const slow = new Promise((resolve) => { setTimeout(resolve, PATIENCE_MS, kept); });
  return isolated(await Promise.race([network.catch(() => kept), slow]));
}

self.addEventListener('install', (event) => event.waitUntil(fill()));
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  const { request } = event, { origin, pathname } = new URL(request.url), scope = new URL(self.registration.scope);
  if (request.method !== 'GET' || origin !== scope.origin || !pathname.startsWith(scope.pathname)) return;
  if (request.mode === 'navigate' || ['script', 'worker', 'style'].includes(request.destination)) event.respondWith(answer(request));
});
