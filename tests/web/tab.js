/** One of several tabs, or a frame: loads a model, uses it, tells its opener what came of it. */
const query = new URLSearchParams(location.search);
const site = query.get('site');
const bundle = new URL(`${query.get('at') ?? ''}/${site}/`, location.href);
const scripts = new URL(`${query.get('scripts') ?? '/bundle'}/`, location.href);

try {
  const { sha256 } = await import(new URL('sha256.js', scripts).href);
  const { WasmModelLoader } = await import(new URL('smollm.js', scripts).href);
  const expected = await (await fetch('expected.json')).json();
  const [c] = expected.greedy;
  const loader = new WasmModelLoader();
  const plan = query.has('plan') ? await loader.plan(bundle) : null;
  const onProgress = (p) => {
    window.loaded = p.loaded / p.total;
  };
  const model = await loader.load_quantized_model(bundle, { onProgress });
  const digest = await sha256(new Uint8Array((await model.logits(c.prompt_ids)).buffer));
  const { ids } = await model.generate(c.prompt_ids, { maxTokens: 8 }).result;
  const { fetched_bytes, total_bytes, notes, threads, why } = model.info;
  const facts = {
    sha256: digest,
    ids,
    fetched: fetched_bytes,
    total: total_bytes,
    notes,
    threads,
    why,
    plan,
    kept: await model.kept,
  };
  parent.postMessage(facts, '*');
  model.dispose();
} catch (error) {
  parent.postMessage({ error: `${error.name}: ${error.message}` }, '*');
}
