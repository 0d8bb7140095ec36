/** A worker that is one more thread of the kernel: the same module on the same memory, on a stack of its own. */
import { toPlain } from './errors.js';

onmessage = async ({ data: { init: { module, memory, stackTop, index }, port } }) => {
  try {
    const { exports } = /** @type {any} */ (await WebAssembly.instantiate(module, { env: { memory } }));
    exports.__stack_pointer.value = stackTop;
    port.onmessage = ({ data: { model } }) => exports.sm_worker(model, index); // comes back after sm_close
    port.postMessage({ ready: index });
  } catch (e) {
    port.postMessage({ error: toPlain(e) });
  }
};
