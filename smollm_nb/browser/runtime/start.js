/**
 * Workers: each gets a second chance to start, and where it does not, the error names the file and what is wrong with
 * it.
 */
import { aborted, scriptError } from './errors.js';

const TRIES = 2;
const PAUSE_MS = 250;
const QUIET_MS = 5000; // a worker that says nothing for so long has its scripts looked at
const BUSY_MS = 60000; // more, where its scripts are all there: the machine does something else
const LOOK_MS = 4000; // for one script, when it is looked at
const HERE = import.meta.url;
const BUNDLED = !new URL(HERE).pathname.endsWith('/start.js'); // then the scripts have names that are not known here
const SCRIPT_TYPE = /^(text|application)\/(x-)?(java|ecma)script\b/;
const IMPORT = /\b(?:from|import)\s*["'](\.[^"']+)["']/g;

const LOCATE = 'give new WasmModelLoader(locate) a function that says where worker.js, loader.js and compute.js are';

/** @typedef {(file: string) => string | URL} Locate says where a worker's script is */

/** Written out one by one, because that is how bundlers find the scripts. @type {Record<string, () => Worker>} */
const BESIDE = {
  './worker.js': () => new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }),
  './loader.js': () => new Worker(new URL('./loader.js', import.meta.url), { type: 'module' }),
  './compute.js': () => new Worker(new URL('./compute.js', import.meta.url), { type: 'module' }),
};

const sleep = (ms) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

/**
 * @param {string} file
 * @param {Locate} [locate]
 * @returns {URL}
 */
function place(file, locate) {
  if (locate) return new URL(locate(file), globalThis.document?.baseURI ?? HERE);
  if (HERE.startsWith('http')) return new URL(file, HERE);
  throw scriptError(`${file.slice(2)}: smollm.js came from nowhere (${HERE.split(':')[0]}:), ${LOCATE}`);
}

/** Whether a page must not start a worker from there. A blob is the page's own. @param {URL} url */
const foreign = (url) => url.protocol.startsWith('http') && url.origin !== globalThis.origin;

/**
 * @param {string} file
 * @param {URL} url
 */
const refusal = (file, url) =>
  scriptError(
    `${file.slice(2)} at ${url.origin}: a page may start no worker from another origin: ` +
      `serve the bundle's scripts beside the page, or ${LOCATE}`,
  );

/**
 * A page may start no worker from another origin, but one of its own that imports from there, where that host and the
 * page's policy allow it. A page in a sandbox has no origin, and Chromium starts none from its blobs.
 * @param {URL} url
 * @returns {Worker}
 */
function openForeign(url) {
  const text = `import ${JSON.stringify(url.href)};`;
  if (globalThis.origin === 'null')
    return new Worker(`data:text/javascript,${encodeURIComponent(text)}`, { type: 'module' });
  const own = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }));
  setTimeout(() => URL.revokeObjectURL(own), BUSY_MS);
  return new Worker(own, { type: 'module' });
}

/**
 * The second try goes by another URL where that is known: WebKit lets a request wait for one of the same URL that
 * hangs.
 * @param {string} file
 * @param {URL} url
 * @param {Locate | undefined} locate
 * @param {number} n which try
 * @returns {Worker}
 */
function open(file, url, locate, n) {
  try {
    if (foreign(url)) return openForeign(url);
    if (n > 1 && !BUNDLED && url.protocol.startsWith('http'))
      return new Worker(`${url}${url.search ? '&' : '?'}again`, { type: 'module' });
    return locate ? new Worker(url, { type: 'module' }) : BESIDE[file]();
  } catch {
    throw refusal(file, url);
  }
}

/** Why a request for a script failed. @param {Error} error */
const unreachableReason = (error) =>
  (['TimeoutError', 'AbortError'].includes(error.name)
    ? `no answer within ${LOOK_MS / 1000} s`
    : 'it cannot be reached') + ': check the server and the network, then load again';

/**
 * @param {Response} response
 * @returns {string} what is wrong with a script; "" if nothing is
 */
function wrongAnswer(response) {
  const type = response.headers.get('Content-Type') ?? '';
  if (response.status === 404) return 'the server has no such file (404): copy the whole bundle there';
  if (response.status >= 500) return `the server said ${response.status}: load again in a moment`;
  if (!response.ok) return `the server refuses it (${response.status}): let it be read`;
  if (/html/.test(type)) return 'the server sent a web page in its place: copy the whole bundle there';
  return SCRIPT_TYPE.test(type)
    ? ''
    : `the server calls it ${type || 'nothing'}: browsers run only what is called text/javascript`;
}

/**
 * What is wrong with a script or with one that it imports. Browsers do not say it: a worker only learns that it did not
 * start.
 * @param {URL} url
 * @param {URL} root of the script that was to start
 * @param {Set<string>} [seen]
 * @returns {Promise<string>} "" if nothing is
 */
async function examine(url, root, seen = new Set()) {
  if (BUNDLED || seen.has(url.href) || !url.protocol.startsWith('http')) return '';
  seen.add(url.href);
  const name = url.href.replace(new URL('.', root).href, '').replace(/[?#].*/, '');
  let text;
  try {
    const response = await fetch(url, { cache: 'no-store', signal: AbortSignal.timeout(LOOK_MS) });
    const wrong = wrongAnswer(response);
    if (wrong) return `${name}: ${wrong}`;
    text = await response.text();
  } catch (e) {
    return `${name}: ${unreachableReason(e)}`;
  }
  const imported = [...text.matchAll(IMPORT)].map(([, path]) => examine(new URL(path, url), root, seen));
  return (await Promise.all(imported)).find(Boolean) ?? '';
}

/**
 * What an error event of a worker says.
 * @param {ErrorEvent | null} event
 * @returns {string} "" where a script could not be read
 */
export const eventWords = (event) => event?.message ?? '';

/**
 * Settles when a worker has said that it runs, or cannot.
 * @param {Worker} worker
 * @param {URL} url
 * @param {boolean} last whether this is the last try: a busy machine is waited for
 * @param {AbortSignal} signal
 * @returns {Promise<ErrorEvent | string | null>} null when it runs; else the event or the words that tell why not, ""
 *   where it only says nothing
 */
function waitUntilRunning(worker, url, last, signal) {
  return new Promise((resolve) => {
    let timer = setTimeout(async () => {
      const wrong = await examine(url, url);
      if (wrong || !last) resolve(wrong);
      else timer = setTimeout(resolve, BUSY_MS, `nothing was heard of it within ${(QUIET_MS + BUSY_MS) / 1000} s`);
    }, QUIET_MS);
    const done = (what) => {
      clearTimeout(timer);
      resolve(what);
    };
    worker.onmessage = () => done(null);
    worker.onerror = done;
    signal.addEventListener('abort', () => done('stopped'), { once: true });
  });
}

/**
 * @param {string} file
 * @param {URL} url
 * @param {ErrorEvent | string | null} wrong as from `waitUntilRunning`
 */
async function reason(file, url, wrong) {
  if (typeof wrong !== 'string' && foreign(url)) return refusal(file, url);
  const words =
    typeof wrong === 'string' ? wrong : eventWords(wrong) || (await examine(url, url)) || 'could not be started';
  return scriptError(/^[\w/.-]+\.js: /.test(words) ? words : `${file.slice(2)}: ${words}`);
}

/**
 * Start one of the runtime's workers; it has said that it runs when it is given back.
 * @param {string} file './worker.js', './loader.js' or './compute.js'
 * @param {Locate | undefined} locate
 * @param {AbortSignal} signal
 * @returns {Promise<Worker>} raises a ScriptError that names the file
 */
export async function startWorker(file, locate, signal) {
  const url = place(file, locate);
  for (let n = 1; ; n++) {
    const worker = open(file, url, locate, n);
    const wrong = await waitUntilRunning(worker, url, n === TRIES, signal);
    if (wrong === null && !signal.aborted) return worker;
    worker.terminate();
    if (signal.aborted) throw aborted();
    if (n === TRIES || (typeof wrong === 'string' && wrong)) throw await reason(file, url, wrong);
    await sleep(PAUSE_MS);
  }
}
