/** The service worker: offline, and the headers that threads need where the host sends none. */
import { recall, remember, remembers } from './tab.js';

const CONTROLLER_MS = 4000; // for the service worker to take over

/** @returns {ServiceWorkerContainer | null} null where the browser has none, or lets this page have none */
function serviceWorkers() {
  try {
    return navigator.serviceWorker ?? null;
  } catch {
    return null;
  }
}

/**
 * @param {ServiceWorkerContainer} workers
 * @param {Promise<ServiceWorkerRegistration>} registered
 * @returns {Promise<boolean>} whether the service worker has taken over in time
 */
function controlled(workers, registered) {
  return new Promise((resolve) => {
    if (workers.controller) resolve(true);
    workers.addEventListener('controllerchange', () => resolve(true));
    registered.catch(() => resolve(false));
    setTimeout(resolve, CONTROLLER_MS, false);
  });
}

/**
 * Register the service worker. Where the host sends no isolating headers the worker adds them, from the next load on:
 * so load once more, once. A page that cannot remember having done so would load for ever, so it goes on without.
 * @param {() => void} leave called before the page loads again
 */
export async function isolate(leave) {
  const workers = serviceWorkers();
  if (!workers) return;
  const registered = workers.register('sw.js');
  registered.catch(() => {}); // the page works without, only not offline
  if (window.crossOriginIsolated) return void remember('isolating', null);
  if (recall('isolating') || !remembers() || !(await controlled(workers, registered))) return;
  remember('isolating', true);
  leave();
  location.reload();
  await new Promise(() => {});
}
