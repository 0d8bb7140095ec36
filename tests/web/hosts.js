/** What hosts do to files, and what becomes of those that are kept. */
import { check, equal, fails, ok, post, until } from './check.js';
import { expected, load, tab, using, works } from './models.js';

const OTHER = new URLSearchParams(location.search).get('other').replace(/\/$/, '');
const tell = (site) => post('control', { site });
const asked = async (site, path) => (await fetch(`/count/${site}/${path}`)).json();
const [c] = expected.greedy;

/** @param {any} r as tab.js tells it */
const right = (r) => equal([r.sha256, r.ids], [c.logits_sha256, c.ids.slice(0, 8)], 'the answer');

async function encodings() {
  await check('a host that says Content-Encoding: gzip', async () => {
    await using('encoded', {}, async (model) => {
      await works(model);
      equal(
        [model.info.fetched_bytes, await model.kept],
        [model.info.total_bytes, { kept: true, trouble: '' }],
        'fetched, kept',
      );
    });
    const cache = await caches.open('smollm_nb /encoded/');
    const tokenizer = await cache.match('/encoded/tokenizer.json.gz');
    ok((await tokenizer.text()).startsWith('{'), 'kept inflated');
    await tell('encoded');
    await using('encoded', {}, async (model) => {
      equal(model.info.fetched_bytes, 0, 'fetched offline');
      await works(model);
    });
  });
  await check('the same host across origins', async () => {
    const how = { at: OTHER, site: 'cors-encoded', scripts: '/lax', policy: 'open' };
    const first = await tab(how);
    right(first);
    equal([first.fetched, first.kept.kept], [first.total, true], 'fetched, kept');
    await tell('cors-encoded');
    const offline = await tab({ ...how, plan: '' });
    right(offline);
    equal([offline.fetched, offline.plan.cached], [0, offline.plan.total], 'fetched offline');
    ok(/did not give the model's manifest/.test(offline.plan.notes.join()), offline.plan.notes.join());
  });
  await check('other bytes of the right length are not taken for a file', async () => {
    for (const [site, path] of [
      ['letters', 'tokenizer\\.json\\.gz'],
      ['short-raw', 'weights/001-'],
      ['long-raw', 'weights/001-'],
    ]) {
      await fails(load(site), ['BundleError', 'FetchError'], new RegExp(`^${path}`));
    }
  });
}

async function origins() {
  await check('one path at three origins: none evicts another', async () => {
    const local = OTHER.replace('127.0.0.1', 'localhost');
    const how = { site: 'cors', scripts: '/lax', policy: 'open' };
    const at = [location.origin, OTHER, local];
    for (const origin of at) right(await tab({ ...how, at: origin }));
    for (const origin of at) equal((await tab({ ...how, at: origin })).fetched, 0, `fetched again from ${origin}`);
    const names = (await caches.keys()).filter((n) => n.endsWith('/cors/'));
    equal(names.sort(), ['smollm_nb /cors/', `smollm_nb ${OTHER}/cors/`, `smollm_nb ${local}/cors/`].sort(), 'caches');
  });
  await check('scripts from another origin, where the policy lets a blob import them', async () => {
    right(await tab({ at: OTHER, site: 'cors', scripts: `${OTHER}/cors`, policy: 'open' }));
  });
  for (const [how, scripts, policy] of [
    ['the policy forbids a blob', 'cors', 'no-blob'],
    ['the host forbids to import them', 'cors-page', 'open'],
  ]) {
    await check(`scripts from another origin, where ${how}`, async () => {
      const error = await tab({ at: OTHER, site: 'cors', scripts: `${OTHER}/${scripts}`, policy }).then(
        () => null,
        (e) => e.message,
      );
      ok(
        /^ScriptError: worker.js at http.*no worker from another origin.*new WasmModelLoader\(locate\)/.test(error),
        error,
      );
    });
  }
}

async function wrongAnswers() {
  for (const [how, site] of [
    ['a web page', 'login'],
    ['503', 'overloaded'],
    ['a redirect to a web page', 'redirected'],
  ]) {
    await check(`${how} in place of everything, beside what is kept`, async () => {
      await using(site, {}, (model) => model.kept);
      const cache = await caches.open(`smollm_nb /${site}/`);
      const before = (await cache.keys()).length;
      await tell(site);
      await using(site, {}, async (model) => {
        equal(model.info.fetched_bytes, 0, 'fetched');
        ok(/did not give the model's manifest/.test(model.info.notes.join()), model.info.notes.join());
        await works(model);
        await model.kept;
      });
      equal((await cache.keys()).length, before, 'files kept');
    });
  }
}

async function said() {
  await check('what is missing from the cache is said before it is fetched', async () => {
    const { WasmModelLoader } = await import('/bundle/smollm.js');
    const loader = new WasmModelLoader();
    await using('missed', {}, (model) => model.kept);
    const manifest = await (await fetch('/missed/model_manifest.json')).json();
    const [, gone] = manifest.weights;
    const cache = await caches.open('smollm_nb /missed/');
    ok(await cache.delete(`/missed/${gone.path}`), 'nothing was deleted');
    await until(async () => {
      // a browser that is slow to list what is kept is not waited for
      const { total, cached } = await loader.plan('/missed/');
      return total - cached === gone.stored;
    }, 'a plan that knows it');
    const heard = [];
    const model = await loader.load_quantized_model('/missed/', { onProgress: (p) => heard.push(p) });
    const plan = heard.findLastIndex((p) => p.plan);
    const fetched = heard.findIndex((p) => p.fetched);
    equal(
      [heard[plan].plan.total - heard[plan].plan.cached, model.info.fetched_bytes],
      [gone.stored, gone.stored],
      'said, fetched',
    );
    ok(plan < fetched, `said as ${plan}, fetched as ${fetched} of ${heard.length}`);
    model.dispose();
  });
  await check('an offline start asks for the manifest once', async () => {
    const { WasmModelLoader } = await import('/bundle/smollm.js');
    const loader = new WasmModelLoader();
    await using('unplugged', {}, (model) => model.kept);
    await tell('unplugged');
    const before = await asked('unplugged', 'model_manifest.json');
    const plan = await loader.plan('/unplugged/');
    const model = await loader.load_quantized_model('/unplugged/');
    const count = (await asked('unplugged', 'model_manifest.json')) - before;
    model.dispose();
    equal([plan.cached, model.info.fetched_bytes, count], [plan.total, 0, 1], 'cached, fetched, asked');
  });
}

async function policies() {
  await check('a policy that forbids to compile', async () => {
    await fails(
      load('no-wasm', {}, true),
      'EngineError',
      /compile the kernel: .*must allow 'wasm-unsafe-eval' in script-src/,
    );
  });
}

export async function run() {
  await policies();
  await encodings();
  await origins();
  await wrongAnswers();
  await said();
}
