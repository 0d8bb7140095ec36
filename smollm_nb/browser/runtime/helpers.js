/**
 * Workers that help the engine's worker. The page starts them for it: Safari gives the scripts of a worker's own workers
 * to no service worker, so that they would be missing offline. What they say to each other
 * goes over a port of their own: the page would hold on to the memory in it.
 */
import { engineError } from './errors.js';

/** @typedef {{onmessage: (e: {data: any}) => void, onerror: (error: Error) => void, postMessage: (data: any, transfer?: Transferable[]) => void, terminate: () => void}} Helper */

/** @type {Map<number, Helper>} */
const helpers = new Map();
let last = 0;

/** @param {string} file beside this one @param {string} what it is for @returns {Helper} */
export function spawn(file, what) {
  const { port1, port2 } = new MessageChannel(), number = ++last;
  const helper = {
    what, onerror: () => {}, postMessage: (data, transfer = []) => port1.postMessage(data, transfer),
    set onmessage(hear) { port1.onmessage = hear; },
    terminate() {
      helpers.delete(number);
      port1.close();
      postMessage({ end: number });
    },
  };
  helpers.set(number, /** @type {any} */ (helper));
  postMessage({ spawn: number, file, port: port2 }, { transfer: [port2] });
  return /** @type {any} */ (helper);
}

/** The page says that a helper has failed. @param {number} number @param {string} message */
export function helperLost(number, message) {
  const helper = /** @type {any} */ (helpers.get(number));
  helper?.onerror(engineError(`${helper.what} did not start: ${message || 'its script could not be read'}`));
}

/** @type {MessageChannel} */
let channel;
const waiting = [];

/** Let messages in, such as a cancel. Quicker than setTimeout, which makes one wait 4 ms. */
export function tick() {
  if (!channel) {
    channel = new MessageChannel();
    channel.port1.onmessage = () => waiting.shift()();
  }
  return new Promise((resolve) => {
    waiting.push(resolve);
    channel.port2.postMessage(0);
  });
}
