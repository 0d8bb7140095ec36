/** One of several tabs: loads the model, tells its opener what came of it. */
import { sha256 } from '/bundle/sha256.js';
import { WasmModelLoader } from '/bundle/smollm.js';

const expected = await (await fetch('expected.json')).json();
try {
  const onProgress = (p) => { window.loaded = p.loaded / p.total; };
  const model = await new WasmModelLoader().load_quantized_model(`/${new URLSearchParams(location.search).get('site')}/`, { onProgress });
  const digest = await sha256(new Uint8Array((await model.logits(expected.greedy[0].prompt_ids)).buffer));
  await model.kept;
  parent.postMessage({ sha256: digest, fetched: model.info.fetched_bytes, total: model.info.total_bytes });
  model.dispose();
} catch (error) {
  parent.postMessage({ error: error.message });
}
