/**
 * A visitor of a page whose folder is replaced by another version while it is open. The page is a small one, its
 * service worker and its runtime are the bundle's. Steps outlive reloads in sessionStorage.
 */
import { check, equal, ok, post, until } from './check.js';
import { sha256 } from './sha256.js';
import { WasmModelLoader } from './smollm.js';

const { app, part, others } = globalThis.versions; // what app.js says of itself and of what it imports
const framed = window !== parent;
const step = sessionStorage.getItem('step') ?? 'first';
const other = new URLSearchParams(location.search).get('other');
if (other) sessionStorage.setItem('other', other);

/** What the service worker hands out to new pages. @returns {Promise<string>} */
const current = async () =>
  (await (await (await caches.open('smollm_nb shells /update/')).match('state'))?.json())?.current ?? '';
const shells = async () => (await caches.keys()).filter((n) => n.startsWith('smollm_nb shell /update/ '));
const manifest = async () => (await fetch('model_manifest.json')).json();

/** What a worker that is started now says of itself and of what it imports. */
async function helper() {
  const worker = new Worker('helper.js', { type: 'module' });
  const versions = await new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = () => reject(new Error('the worker does not start'));
  });
  worker.terminate();
  return versions;
}

/**
 * Everything that this page can see is of one version.
 * @param {number} version
 * @param {string} only a file that this version alone has
 */
async function checkVersion(version, only) {
  const later = await import('./later.js');
  const lone = await import(`./${only}.js`);
  equal(
    [app, part, others, later.version, lone.version],
    [version, version, [only], version, version],
    'the page, its parts',
  );
  equal(await helper(), [version, version], 'a worker, its part');
  equal((await manifest()).version, `v${version}`, 'the manifest');
}

/** What is kept is what the manifest beside it says, to the byte. */
async function sound() {
  const names = await shells();
  for (const name of names) {
    const cache = await caches.open(name);
    const { files } = await (await cache.match('model_manifest.json')).json();
    for (const { path, role, sha256: digest } of files.filter((f) => ['page', 'module', 'vendor'].includes(f.role))) {
      const kept = await cache.match(path);
      ok(kept, `${path}, ${role}, is not kept`);
      equal(await sha256(new Uint8Array(await kept.arrayBuffer())), digest, path);
    }
    equal(
      (await cache.keys()).length,
      files.filter((f) => ['page', 'module', 'vendor'].includes(f.role)).length + 1,
      'files kept',
    );
  }
  return names;
}

async function next(name) {
  sessionStorage.setItem('step', name);
  location.reload();
  await new Promise(() => {});
}

const tell = (value) => post('control', { site: 'update', value });

async function first() {
  await navigator.serviceWorker.register('sw.js');
  await until(() => navigator.serviceWorker.controller, 'the service worker');
  await until(current, 'a whole version');
  await check('the first version is kept whole', async () => equal((await sound()).length, 1, 'versions'));
  const model = await new WasmModelLoader().load_quantized_model('.');
  equal((await model.kept).kept, true, 'the model is kept');
  model.dispose();
  await next('open');
}

async function open() {
  await check('the first version, from what is kept', () => checkVersion(1, 'lost'));
  await tell('2');
  const before = await current();
  const frame = document.createElement('iframe');
  const said = new Promise((resolve) => {
    window.addEventListener('message', ({ data }) => resolve(data));
  });
  frame.src = './?tab';
  document.body.append(frame);
  await check('a page that is opened after an update has the new version, whole', async () => {
    equal(await said, { ok: true }, 'the other page');
    ok((await current()) !== before, 'the new version has not taken over');
    equal((await sound()).length, 2, 'versions kept');
  });
  await check('a page that is open keeps its own', () => checkVersion(1, 'lost'));
  frame.remove();
  await next('updated');
}

async function updated() {
  await check('the new version after a reload', () => checkVersion(2, 'gained'));
  await tell('login');
  await next('login');
}

/**
 * The server says something else: the version that is kept goes on.
 * @param {string} how
 * @param {string} then what it says next
 * @param {string} name of the next step
 */
async function wrong(how, then, name) {
  await check(`${how}, beside a version that is kept`, async () => {
    await checkVersion(2, 'gained');
    await until(async () => (await sound()).length === 1, 'the old version to go, and no other to come');
  });
  await tell(then);
  await next(name);
}

async function last() {
  sessionStorage.setItem('step', 'offline');
  await post('report', { kill: true }); // the server goes away now
  await until(
    () =>
      fetch('/report', { cache: 'no-store' }).then(
        () => false,
        () => true,
      ),
    'the end of the server',
  );
  location.reload();
}

async function offline() {
  const said = { ok: false, detail: '' };
  try {
    await checkVersion(2, 'gained');
    await sound();
    const model = await new WasmModelLoader().load_quantized_model('.');
    said.detail = (await model.generate('Once upon a time', { maxTokens: 8 }).result).text;
    said.ok = crossOriginIsolated && said.detail !== '' && model.info.fetched_bytes === 0;
  } catch (e) {
    said.detail = `${e.name}: ${e.message}`;
  }
  location.href = `${sessionStorage.getItem('other')}say?${encodeURIComponent(JSON.stringify(said))}`;
}

if (framed) {
  const error = await checkVersion(2, 'gained').then(
    () => null,
    (e) => e.message,
  );
  parent.postMessage(error ? { error } : { ok: true }, '*');
} else {
  await {
    first,
    open,
    updated,
    login: () => wrong('a web page in place of everything', '503', 'overloaded'),
    overloaded: () => wrong('503 in place of everything', 'half', 'half'),
    half: () => wrong('a new manifest beside old files', 'types', 'types'),
    types: () => wrong('files of the wrong type', '2', 'last'),
    last,
    offline,
  }[step]();
}
