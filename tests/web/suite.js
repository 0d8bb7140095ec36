/** The runtime in a real browser, held against what Python and the native engine say of the same bundle. */
import { check, equal, fails, ok, post, sleep, until } from './check.js';
import { expected, frame, hash, load, said, shared, using, works } from './models.js';

const kinds = new URLSearchParams(location.search).get('kinds').split(',');

/** Python's token ids. */
async function ids(model) {
  await check('token ids', async () => {
    for (const c of expected.texts) {
      equal(await model.encode(c.text), c.plain, `ids of ${JSON.stringify(c.text)}`);
      equal(
        await model.encode(c.text, { special: true }),
        c.special,
        `ids with special tokens of ${JSON.stringify(c.text)}`,
      );
    }
    return `${expected.texts.length} texts`;
  });
  await check('chat ids', async () => {
    for (const c of expected.chats) equal(await model.encode(c.messages), c.ids, JSON.stringify(c.messages));
  });
}

/** The lens of an answer's tokens. */
async function lenses(model, { prompt_ids, layers, top, tokens }) {
  await model.reset();
  const got = [];
  const options = { maxTokens: tokens.length, lens: { ...(layers && { layers }), top } };
  for await (const { id, lens } of model.generate(prompt_ids, options))
    got.push({ id, text: lens.text, layers: lens.layers });
  return got;
}

/** What happens inside, as the native engine says it. */
async function lens() {
  for (const threads of [1, 3]) {
    await check(`the lens is the native one, ${threads} threads`, () =>
      using('bundle', { threads }, async (model) => {
        const before = expected.greedy[0];
        equal((await model.generate(before.prompt_ids, { maxTokens: 8 }).result).ids, before.ids.slice(0, 8), 'before');
        for (const c of expected.lens) {
          const got = await lenses(model, c);
          got.forEach((token, i) => {
            equal(token, c.tokens[i], `token ${i} after ${c.prompt_ids.length} ids`);
          });
          equal(got.length, c.tokens.length, 'tokens');
        }
        equal(model.info.layers, expected.layers, 'layers');
        equal(await hash(await model.logits(before.prompt_ids)), before.logits_sha256, 'logits afterwards');
        equal((await model.generate(before.prompt_ids, { maxTokens: 8 }).result).ids, before.ids.slice(0, 8), 'after');
        for (const bad of [{ layers: [model.info.layers + 1] }, { top: 65 }, 7, { layers: [2, 1] }])
          await fails(model.generate('a', { lens: bad }).result, 'ParameterError', /^lens/);
      }),
    );
  }
}

async function drafts(model) {
  await check('drafts change nothing', async () => {
    for (const c of expected.drafts) {
      const on = await model.generate(c.prompt, c.options).result;
      const off = await model.generate(c.prompt, { ...c.options, lookup: false }).result;
      equal([on.ids, on.text], [c.ids, c.text], 'as natively');
      equal([off.ids, off.text], [c.ids, c.text], 'without drafts');
      equal([off.timings.passes, off.timings.tokens_per_pass], [c.ids.length, 1], 'a pass a token');
      ok(on.timings.passes < c.ids.length, `${on.timings.passes} passes for ${c.ids.length} tokens`);
      const { bytes_per_token: bytes, tokens_per_s: rate, gb_per_s: speed, tokens_per_pass: each } = on.timings;
      ok(!(Math.abs((speed * 1e9 * each) / (bytes * rate) - 1) > 1e-9), 'weights read a second'); // coarse clocks: NaN
    }
  });
}

async function parity() {
  for (const threads of [1, 2, 3]) {
    await check(`logits, ${threads} threads`, () =>
      using('bundle', { threads }, async (model) => {
        equal(model.info.threads, shared ? threads : 1, 'threads');
        equal(model.info.memory.arena, expected.arena[model.info.threads], 'memory as predicted');
        ok(
          ['relaxed', 'simd128'].map((v) => (shared && threads > 1 ? `${v}-threads` : v)).includes(model.info.variant),
          `the variant is ${model.info.variant}`,
        );
        for (const c of expected.greedy) {
          equal(await hash(await model.logits(c.prompt_ids)), c.logits_sha256, `logits after ${c.prompt}`);
          equal(
            (await model.generate(c.prompt_ids, { maxTokens: c.ids.length }).result).ids,
            c.ids,
            `ids after ${c.prompt}`,
          );
        }
        return model.info.why;
      }),
    );
  }
  const model = await load('bundle', {});
  await check('same seed, same text', async () => {
    for (const c of expected.sampled) {
      const r = await model.generate(c.prompt, c.options).result;
      equal([r.ids, r.text, r.finish_reason], [c.ids, c.text, c.finish_reason], `seed ${c.options.seed}`);
    }
  });
  await ids(model);
  await drafts(model);
  await lens();
  await check('streamed text is the result', async () => {
    const [c] = expected.sampled;
    const pieces = [];
    const heard = [];
    const answer = model.generate(c.prompt, { ...c.options, onToken: (t) => heard.push(t.id) });
    for await (const t of answer) pieces.push(t);
    const r = await answer.result;
    equal(pieces.map((t) => t.text).join(''), r.text, 'text');
    equal([pieces.map((t) => t.id), heard], [r.ids, r.ids], 'ids');
    equal(
      [r.timings.new_tokens, r.timings.itl_s.length, r.timings.backend],
      [r.ids.length, r.ids.length - 1, 'wasm'],
      'timings',
    );
    // some clocks tick in ms
    ok(r.timings.tokens_per_s > 0 && r.timings.ttft_s >= 0 && model.timings === r.timings, 'timings have figures');
  });
  await check('a stop string never leaks', async () => {
    for (const c of expected.stops) {
      const pieces = [];
      const answer = model.generate(c.prompt, c.options);
      for await (const t of answer) pieces.push(t.text);
      const r = await answer.result;
      equal(
        [pieces.join(''), r.text, r.finish_reason, r.ids],
        [c.text, c.text, c.finish_reason, c.ids],
        `stop at ${c.options.stop}`,
      );
    }
  });
  await check('turns share their beginning', async () => {
    await model.reset();
    const ids = expected.long.slice(0, 100);
    const first = await model.generate(ids, { maxTokens: 4 }).result;
    equal(first.timings.cached_tokens, 0, 'cached');
    const next = [...ids, ...first.ids, 7, 8, 9];
    const second = await model.generate(next, { maxTokens: 4 }).result;
    equal(second.timings.cached_tokens, 103, 'cached'); // the last token of an answer was chosen, never read
    await model.reset();
    equal((await model.generate(next, { maxTokens: 4 }).result).ids, second.ids, 'ids');
  });
  await check('cancelled in prefill', async () => {
    await model.reset();
    const control = new AbortController();
    const answer = model.generate(expected.long, { maxTokens: 8, signal: control.signal });
    control.abort();
    const r = await answer.result;
    equal([r.finish_reason, r.ids, r.text], ['cancelled', [], ''], 'result');
    const c = expected.greedy[0];
    equal((await model.generate(c.prompt_ids, { maxTokens: 8 }).result).ids, c.ids.slice(0, 8), 'ids afterwards');
  });
  await check('cancelled in decode', async () => {
    const control = new AbortController();
    const c = expected.greedy.find(({ ids }) => ids.length === 32);
    let seen = 0;
    const answer = model.generate(c.prompt_ids, {
      maxTokens: 200,
      signal: control.signal,
      onToken: () => {
        if (++seen === 3) control.abort();
      },
    });
    const r = await answer.result;
    ok(r.finish_reason === 'cancelled' && r.ids.length >= 3, `${r.finish_reason} after ${r.ids.length} tokens`);
    equal(r.ids.slice(0, 32), c.ids.slice(0, r.ids.length), 'ids');
  });
  await answers(model);
  await check('what is wrong is said', async () => {
    await fails(model.generate('a', { temperature: -1 }).result, 'ParameterError', /temperature=-1 must be/);
    await fails(model.generate('a', { temprature: 1 }).result, 'ParameterError', /unknown option temprature/);
    await fails(model.generate('a', { seed: 'x' }).result, 'ParameterError', /seed=x/);
    for (const stop of ['', 5, [null]])
      await fails(model.generate('a', { stop }).result, 'ParameterError', /stop string/);
    await fails(model.generate('a', { stop: () => 'x' }).result, 'ParameterError', /cannot be handed to a worker/);
    for (const prompt of [null, 7, {}, true])
      await fails(model.generate(prompt).result, 'ParameterError', /prompt must be a text/);
    await fails(model.generate([]).result, 'TokenizerError', /at least one record of role and content/);
    for (const ids of [[], 'a', null, ['a']]) await fails(model.next(ids), 'ParameterError', /ids must be a list/);
    for (const pos of [-1, 0.5, 'a', null]) await fails(model.next([5], pos), 'ParameterError', /pos=/);
    for (const id of [-1, 1.5, 2 ** 32 + 5])
      await fails(model.generate([5, id]).result, 'EngineError', /^token id .* is not in 0/);
    await fails(load('bundle', { threads: () => 2 }), 'ParameterError', /cannot be handed to a worker/);
    await fails(load('bundle', { threads: '2' }), 'ParameterError', /threads=2 must be/);
    const { WasmModelLoader } = await import('/bundle/smollm.js');
    await fails(
      new WasmModelLoader().load_quantized_model('http://'),
      'ParameterError',
      /is no URL: name the bundle's folder/,
    );
    equal(
      (await model.generate(new Int32Array([5, 6]), { maxTokens: 1 }).result).prompt_ids,
      [5, 6],
      'ids in an array of numbers',
    );
    await fails(model.generate([{ role: 'robot', content: '' }]).result, 'TokenizerError', /role must be one of/);
    await fails(model.generate('\ud800').result, 'TokenizerError', /surrogate/);
    await fails(model.generate([99999]).result, 'EngineError', /token id/);
    await fails(
      model.generate(expected.long, { maxTokens: 500 }).result,
      'ContextOverflowError',
      /do not fit a context of 256/,
    );
    await fails(load('bundle', { threads: 0 }), 'ParameterError', /threads=0 must be/);
    await fails(load('bundle', { context: 5000 }), 'ParameterError', /context=5000/);
  });
  await check('the context bounds an answer', async () => {
    const r = await model.generate(expected.long, { maxTokens: 500, overflow: 'stop' }).result;
    ok(
      (r.truncated && r.ids.length + expected.long.length === 256 && r.finish_reason === 'length') ||
        r.finish_reason === 'eos',
      JSON.stringify(r.finish_reason),
    );
    const s = await model.generate(expected.long, { maxTokens: 200, overflow: 'drop_oldest' }).result;
    ok(s.truncated, 'the prompt was cut');
    await using('bundle', { context: 64, threads: 1 }, async (small) => equal(small.info.context, 64, 'context'));
  });
  await check('disposed of', async () => {
    const waiting = model.generate('Once', { maxTokens: 200 });
    model.dispose();
    await fails(waiting.result, 'InvalidStateError', /disposed/);
    ok(!model.is_ready(), 'not ready');
    await fails(model.encode('a'), 'InvalidStateError', /disposed/);
  });
}

/** Several answers of one model, and answers that are left. */
async function answers(model) {
  const alone = async (c, maxTokens = c.ids.length) => (await model.generate(c.prompt_ids, { maxTokens }).result).ids;
  const [one, two] = expected.greedy.filter(({ ids }) => ids.length === 32);
  const long = { maxTokens: 200 };
  /** It was cancelled, unless it was done before that was heard: a busy machine hears late. */
  const left = (r) =>
    ok(r.finish_reason === 'cancelled' || r.ids.length > 20, `${r.finish_reason}, ${r.ids.length} tokens`);
  await check('two answers, read in turns', async () => {
    const [a, b] = [one, two].map((c) => model.generate(c.prompt_ids, { maxTokens: 32 }));
    const got = [[], []];
    const streams = [a, b].map((g) => g[Symbol.asyncIterator]());
    for (let open = 2; open; ) {
      open = 0;
      for (const [i, stream] of streams.entries()) {
        const { done, value } = await stream.next();
        if (!done) (got[i].push(value.id), open++);
      }
    }
    equal(got, [one.ids, two.ids], 'ids');
    ok(a.id !== b.id, 'each has a number of its own');
  });
  await check('one answer half read while another is asked', async () => {
    const first = model.generate(one.prompt_ids, { maxTokens: 32 });
    const stream = first[Symbol.asyncIterator]();
    const ids = [];
    for (let i = 0; i < 3; i++) ids.push((await stream.next()).value.id);
    equal(await alone(two), two.ids, 'ids of the other');
    for (let r; !(r = await stream.next()).done; ) ids.push(r.value.id);
    equal(ids, one.ids, 'ids of the first');
    const many = await Promise.all([one, two, one, two].map((c) => alone(c)));
    equal(many, [one.ids, two.ids, one.ids, two.ids], 'ids of four at once');
    const [logits, ids4, next] = await Promise.all([
      model.logits(one.prompt_ids),
      alone(two),
      model.next(one.prompt_ids),
    ]);
    equal([await hash(logits), ids4, next], [one.logits_sha256, two.ids, one.ids[0]], 'other calls between them');
  });
  for (const [how, leave] of Object.entries({
    break: async (answer) => {
      for await (const t of answer) if (t.index === 2) break;
    },
    return: async (answer) => {
      const stream = answer[Symbol.asyncIterator]();
      await stream.next();
      await stream.return(undefined);
    },
    cancel: async (answer) => answer.cancel(),
    'cancel in the middle': async (answer) => {
      await answer[Symbol.asyncIterator]().next();
      answer.cancel();
    },
    abort: async (answer, control) => control.abort(),
    reset: async () => void model.reset(),
  })) {
    await check(`left by ${how}, asked again at once`, async () => {
      const control = new AbortController();
      const answer = model.generate(one.prompt_ids, { ...long, signal: control.signal });
      await leave(answer, control);
      const next = model.generate(two.prompt_ids, { maxTokens: 32 });
      equal((await next.result).ids, two.ids, 'ids of the next');
      const r = await answer.result;
      left(r);
      equal(r.ids.slice(0, 32), one.ids.slice(0, r.ids.length), 'its ids');
    });
  }
  await check('an answer that waits is cancelled at once', async () => {
    const [first, second] = [one, two].map((c) => model.generate(c.prompt_ids, long));
    const control = new AbortController();
    const third = model.generate(two.prompt_ids, { ...long, signal: control.signal });
    control.abort();
    second.cancel();
    const [b, c] = await Promise.all([second.result, third.result]);
    equal([b.ids, b.finish_reason, c.ids, c.finish_reason], [[], 'cancelled', [], 'cancelled'], 'the ones that waited');
    first.cancel();
    equal(await alone(two), two.ids, 'ids afterwards');
  });
  await check('nothing of an earlier conversation is heard in a new one', async () => {
    const heard = [];
    const early = [];
    const old = model.generate(one.prompt_ids, { ...long, onToken: (t) => heard.push(t.id) });
    const waiting = model.generate(two.prompt_ids, { ...long, onToken: (t) => heard.push(t.id) });
    const loop = (async () => {
      for await (const t of old) early.push(t.id);
    })();
    await until(() => heard.length > 1, 'some tokens');
    const done = model.reset();
    const count = heard.length;
    const next = model.generate(one.prompt_ids, { maxTokens: 32 });
    equal((await next.result).ids, one.ids, 'ids of the next');
    await done;
    await loop;
    equal(heard.length, count, 'tokens heard');
    for (const answer of [old, waiting]) left(await answer.result);
    ok(early.length <= count, `${early.length} of ${count} tokens in the loop`);
    equal(model.timings, (await next.result).timings, 'the timings are of the last answer');
  });
  await check('a stop string that names a special token', async () => {
    const texts = new Map(Object.entries(expected.special).map(([text, id]) => [id, text]));
    const options = { temperature: 3, maxTokens: 200 };
    let seen = 0;
    for (let seed = 1; seed < 6; seed++) {
      const free = await model.generate('Hello', { ...options, seed }).result;
      const at = free.ids.findIndex((id) => texts.has(id));
      if (at < 0) continue;
      seen++;
      const stop = texts.get(free.ids[at]);
      const { text, ids, finish_reason } = await model.generate('Hello', { ...options, seed, stop }).result;
      equal([finish_reason, ids], ['stop', free.ids.slice(0, at + 1)], `stop at ${stop}`);
      ok(free.text.startsWith(text) && !text.includes(stop), text);
    }
    ok(seen, 'no answer held a special token');
    return `${seen} answers`;
  });
  await check('temperatures near 0 take the likeliest', async () => {
    for (const temperature of [1e-310, 5e-324, 1e-200, 1e-30]) {
      equal(
        (await model.generate(one.prompt_ids, { temperature, seed: 3, maxTokens: 32 }).result).ids,
        one.ids,
        `temperature=${temperature}`,
      );
    }
  });
}

async function faults() {
  await check('progress, then nothing to fetch', async () => {
    const seen = [];
    const plans = [];
    await using('fresh', { onProgress: (p) => (p.plan ? plans.push(p.plan) : seen.push(p)) }, async (model) => {
      await works(model);
      equal(await model.kept, { kept: true, trouble: '' }, 'kept');
      equal(model.info.fetched_bytes, model.info.total_bytes, 'fetched');
    });
    const sizes = seen.filter((p) => p.stage === 'download').map((p) => p.loaded);
    ok(sizes.every((n, i) => !i || n >= sizes[i - 1]) && sizes.at(-1) === seen[0].total, `progress ${sizes}`);
    ok(plans[0].cached === 0 && plans[0].total === seen[0].total && plans[0].memory > plans[0].total, 'the plan');
    const warm = [];
    await using('fresh', { onProgress: (p) => warm.push(p) }, async (model) =>
      equal(model.info.fetched_bytes, 0, 'fetched'),
    );
    equal(warm[0].plan.cached, warm[0].plan.total, 'the plan');
    equal(warm.filter((p) => p.stage === 'download').at(-1).loaded, warm[0].total, 'progress from the cache');
  });
  await check('a damaged cache is repaired', async () => {
    const cache = await caches.open('smollm_nb /fresh/');
    const manifest = await (await fetch('/fresh/model_manifest.json')).json();
    const [, second, third] = manifest.weights;
    const bytes = new Uint8Array(await (await cache.match(`/fresh/${second.path}`)).arrayBuffer());
    bytes[100] ^= 1;
    await cache.put(`/fresh/${second.path}`, new Response(bytes));
    await cache.put(`/fresh/${third.path}`, new Response(bytes.slice(0, 50)));
    await using('fresh', {}, async (model) => {
      equal(model.info.fetched_bytes, second.stored + third.stored, 'fetched');
      await works(model);
      await model.kept;
    });
    await using('fresh', {}, async (model) => equal(model.info.fetched_bytes, 0, 'fetched'));
  });
  await check('the server dies within a chunk, once', () => using('dies-once', {}, works));
  await check('a chunk arrives damaged, once', () => using('flipped-once', {}, works));
  await check('the server dies within a chunk, always', () =>
    fails(load('dies'), 'FetchError', /^weights\/001-.*no answer after 5 tries.*start the server.*kept/),
  );
  await check('what came before a failure is kept', async () => {
    await until(async () => (await (await caches.open('smollm_nb /dies/')).keys()).length >= 1, 'kept chunks');
  });
  await check('a chunk always arrives damaged', () =>
    fails(load('flipped'), 'BundleError', /^weights\/001-.*do not match their SHA-256: copy the bundle/),
  );
  await check('a wrong hash in the manifest', () =>
    fails(load('wrong-hash'), 'BundleError', /^weights\/001-.*do not match their SHA-256/),
  );
  await check('a manifest cut short', () =>
    fails(load('truncated'), 'BundleError', /^model_manifest.json: is cut short or damaged: copy the bundle/),
  );
  await check('a web page instead of the manifest', () =>
    fails(load('webpage'), 'BundleError', /^model_manifest.json: is no JSON/),
  );
  await check('a manifest that is not sound', async () => {
    for (const [site, why] of [
      ['null-entry', /file 0 is not sound/],
      ['huge', /000-.*is not sound/],
      ['many', /lists 5\d\d\d files/],
    ]) {
      await fails(load(site), 'BundleError', why);
    }
  });
  await check('a web page instead of a chunk', () =>
    fails(load('page-for-chunk'), 'BundleError', /^weights\/001-.*sent a web page in its place: copy/),
  );
  await check('a file that is not there', () =>
    fails(load('missing'), 'FetchError', /^weights\/001-.*no such file \(404\): copy the whole bundle/),
  );
  await check('no bundle at all', () => fails(load('nowhere'), 'FetchError', /^model_manifest.json: .*\(404\)/));
  await check('no server', () => fails(load('gone'), 'FetchError', /^model_manifest.json: no answer after 5 tries/));
  await check('a slow link, cancelled, then resumed', async () => {
    const control = new AbortController();
    const first = load('slow', {
      signal: control.signal,
      onProgress: (p) => {
        if (p.loaded > p.total * 0.75) control.abort();
      },
    });
    const error = await first.then(
      (m) => m.dispose(),
      (e) => e,
    );
    equal(error?.name, 'AbortError', 'the error');
    await sleep(300);
    await using('slow', {}, async (model) => {
      ok(model.info.fetched_bytes < model.info.total_bytes, 'something was kept');
      await works(model);
    });
  });
  await check('no room in the cache', () =>
    using('quota', {}, async (model) => {
      await works(model);
      const { kept, trouble } = await model.kept;
      ok(!kept && /no room/.test(trouble), trouble);
    }),
  );
  await check('threads that do not start', () =>
    using('no-threads', { threads: 2 }, async (model) => {
      await works(model);
      ok(model.info.threads === 1 && /^(relaxed|simd128)$/.test(model.info.variant), model.info.variant);
      ok(!shared || /after simd128-threads failed: thread 1 did not start/.test(model.info.why), model.info.why);
      return model.info.why;
    }),
  );
  await check('a build that computes something else', () =>
    fails(load('miscomputes', { threads: 1 }), 'EngineError', /self-test gave other logits/),
  );
  await check('a new version replaces the old', async () => {
    await using('renewed', {}, (model) => model.kept);
    await post('control', { site: 'renewed' });
    await using('renewed', {}, async (model) => {
      ok(
        model.info.fetched_bytes > 0 && model.info.fetched_bytes < model.info.total_bytes / 2,
        `only what changed was fetched: ${model.info.fetched_bytes}`,
      );
      equal(model.info.version, 'new', 'version');
      await model.kept;
    });
    let names = [];
    await until(
      async () => {
        // WebKit on a busy machine lists nothing for a moment
        names = (await (await caches.open('smollm_nb /renewed/')).keys()).map((r) => r.url.split('/').at(-1));
        return names.length;
      },
      'kept files',
      10000,
    );
    ok(names.includes('renewed.gz') && new Set(names).size === expected.files_kept, `the cache holds ${names}`);
  });
  await check('the server goes, the model stays', async () => {
    await using('leaves', {}, (model) => model.kept);
    await post('control', { site: 'leaves' });
    await using('leaves', {}, async (model) => {
      equal(model.info.fetched_bytes, 0, 'fetched');
      await works(model);
    });
  });
  await check('two tabs at once', async () => {
    const both = await Promise.all([frame('tab.html?site=tabs'), frame('tab.html?site=tabs')].map(said));
    both.forEach((r) => equal(r.sha256, expected.greedy[0].logits_sha256, 'logits'));
    await using('tabs', {}, async (model) => equal(model.info.fetched_bytes, 0, 'fetched afterwards'));
  });
  await check('reloaded during the download', async () => {
    const f = frame('tab.html?site=slow-reload');
    await until(() => f.contentWindow.loaded > 0.75, 'progress');
    f.contentWindow.location.reload();
    const r = await said(f);
    equal(r.sha256, expected.greedy[0].logits_sha256, 'logits');
    ok(r.fetched < r.total, `${r.fetched} of ${r.total} fetched again`);
  });
}

/** A page from plain HTTP in a network: no crypto.subtle, no cache, no service worker. */
async function lan() {
  await check('plain HTTP in a local network', () =>
    using('bundle', {}, async (model) => {
      ok(!isSecureContext && !globalThis.caches && !crypto.subtle, 'this is no secure context');
      await works(model);
      equal([model.info.threads, model.info.fetched_bytes], [1, model.info.total_bytes], 'threads and bytes');
      ok(/HTTPS or localhost/.test(model.info.why), model.info.why);
      const { kept, trouble } = await model.kept;
      ok(!kept && /no secure context/.test(trouble), trouble);
      return model.info.why;
    }),
  );
}

/** The real model: few checks, each of them dear. */
async function real() {
  for (const threads of [2, 1]) {
    await check(`the real model, ${threads} threads`, () =>
      using('bundle', { threads }, async (model) => {
        const { prompt_ids, logits_sha256, ids: want } = expected.greedy[0];
        equal(await hash(await model.logits(prompt_ids)), logits_sha256, 'logits');
        equal((await model.generate(prompt_ids, { maxTokens: want.length }).result).ids, want, 'ids');
        for (const c of expected.sampled)
          equal((await model.generate(c.prompt, c.options).result).text, c.text, 'text');
        for (const c of expected.lens) equal(await lenses(model, c), c.tokens, 'lens');
        if (threads === 1) await ids(model);
        const rate = model.timings.tokens_per_s.toFixed(1);
        return `${model.info.variant}: ${rate} tokens/s, loaded in ${model.info.load_s.toFixed(2)} s`;
      }),
    );
  }
}

if (kinds.includes('real')) await real();
if (kinds.includes('parity')) await parity();
if (kinds.includes('faults')) await faults();
if (kinds.includes('lan')) await lan();
const others = { texts: './texts.js', hosts: './hosts.js', scripts: './scripts.js', storage: './storage.js' };
for (const kind of kinds) if (others[kind]) await (await import(others[kind])).run(kinds);
await post('report', { done: true });
