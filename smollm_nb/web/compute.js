/** A worker that is one more thread of the kernel: the same module on the same memory, on a stack of its own. */
import { toPlain } from './errors.js';

let exports;

onmessage = async ({ data }) => {
  try {
    if (data.module) {
      exports = (await WebAssembly.instantiate(data.module, { env: { memory: data.memory } })).exports;
      exports.__stack_pointer.value = data.stackTop;
      postMessage({ ready: data.index });
    } else {
      exports.sm_worker(data.model, data.index); // comes back after sm_close
      close();
    }
  } catch (e) {
    postMessage({ error: toPlain(e) });
  }
};
