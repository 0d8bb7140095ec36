/** A worker that is one more thread of the kernel: the same module on the same memory, on a stack of its own. */
import { toPlain } from './errors.js';

onmessage = ({ data: { port } }) => {
  let run;
  port.onmessage = async ({ data: { model, module, memory, stackTop, index } }) => {
    if (model) return run(model); // comes back after sm_close
    try {
      const { exports } = /** @type {any} */ (await WebAssembly.instantiate(module, { env: { memory } }));
      exports.__stack_pointer.value = stackTop;
      run = (model) => exports.sm_worker(model, index);
      port.postMessage({ ready: index });
    } catch (e) {
      port.postMessage({ error: toPlain(e) });
    }
  };
};
postMessage({ here: true });
