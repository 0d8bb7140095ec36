// The page's pure parts under Node; what needs a document is tried in browsers, by test_page.py.
import assert from 'node:assert/strict';
import test from 'node:test';

const web = new URL('../../smollm_nb/browser/runtime/', import.meta.url);
const load = (name) => import(new URL(name, web));
const { bundled, scaleTop } = await load('chart.js');
const { Conversation } = await load('conversation.js');
const { aborted, fromPlain, overflowError, parameterError } = await load('errors.js');
const { explain } = await load('problems.js');
const { chosenLayers, percent, visible } = await load('inside.js');
const { readStops } = await load('settings.js');
const { offeredContexts, plan, predictMemory } = await load('variants.js');

test('a chat goes to the model as messages, a text as it is; what failed or was taken out does not', () => {
  const c = new Conversation();
  const first = c.add('chat', 'a');
  assert.deepEqual(c.prompt(first), [{ role: 'user', content: 'a' }]);
  Object.assign(first, { answer: 'b', done: true });
  Object.assign(c.add('text', 'once'), { answer: ' upon', done: true });
  c.add('chat', 'never answered');
  const last = c.add('chat', 'c');
  assert.deepEqual(
    c.prompt(last).map((m) => m.content),
    ['a', 'b', 'c'],
  );
  assert.equal(c.prompt(c.add('text', 'it was')), 'it was');
  assert.deepEqual(
    c.cut(last).map((t) => t.text),
    ['c', 'it was'],
  );
  assert.deepEqual(
    c.turns.map((t) => t.text),
    ['a', 'once', 'never answered'],
  );
});

test('a conversation is the same after a reload, and an answer that was cut off is kept', () => {
  const c = new Conversation();
  Object.assign(c.add('chat', 'a'), { answer: '', note: 'stopped', done: true });
  c.add('chat', 'b').answer = 'half of';
  c.add('chat', 'c');
  const again = new Conversation(JSON.parse(JSON.stringify(c)));
  assert.deepEqual(
    again.turns.map((t) => [t.text, t.answer, t.note, t.done]),
    [
      ['a', '', 'stopped', true],
      ['b', 'half of', 'stopped when the page was left', true],
    ],
  );
  for (const odd of [null, 5, 'x', {}, [null, { kind: 'chat' }, { kind: 'x', text: '', answer: '', note: '' }]]) {
    assert.deepEqual(new Conversation(odd).turns, []);
  }
});

test('layers to look at: at most eleven, at even steps, the last among them', () => {
  assert.deepEqual(chosenLayers(30), [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]);
  assert.deepEqual(chosenLayers(32), [0, 4, 8, 12, 16, 20, 24, 28, 32]);
  assert.deepEqual(chosenLayers(4), [0, 1, 2, 3, 4]);
  assert.deepEqual(chosenLayers(11), [1, 3, 5, 7, 9, 11]);
  assert.equal(visible(' a\n\t'), '·a⏎⇥');
  assert.deepEqual(
    [0, 0.004, 0.5, 0.9999].map((p) => percent(p)),
    ['< 1 %', '< 1 %', '50 %', '100 %'],
  );
  assert.equal(percent(0.0123, 1), '1.2 %');
});

test('stop strings: one a line, a line break written as in code', () => {
  for (const [text, want] of [
    ['', []],
    ['a\nb', ['a', 'b']],
    ['\\n\\n', ['\n\n']],
    ['a \n\n b', ['a ', ' b']],
    ['\\t\\\\n\\x', ['\t\\n\\x']],
    ['\\', ['\\']],
  ])
    assert.deepEqual(readStops(text), want);
});

test('what went wrong is one line that names a way out', () => {
  assert.equal(explain(parameterError('a is b')), 'A is b');
  const longer = explain(overflowError('lower maxTokens'), 2048);
  assert.match(longer, /^The conversation is longer than the 2,048 tokens of its context: begin a new one/);
  assert.match(explain(overflowError('lower maxTokens')), /longer than its context/);
  assert.match(explain(new TypeError('x is not\na y')), /^Something .* \(TypeError: x is not a y\): load/);
  assert.match(explain(fromPlain({ name: 'TypeError', message: 'y' })), /\(TypeError: y\)/, 'from another thread too');
  assert.match(explain(aborted()), /AbortError/);
  assert.match(explain(null), /\(null\)/);
});

test('the chart has no more bars than a screen shows, and no outlier flattens it', () => {
  const ms = Array.from({ length: 1000 }, (_, i) => 10 + (i % 7));
  ms[500] = 400;
  const { each, bars } = bundled(ms);
  assert.deepEqual([each, bars.length, Math.max(...bars)], [8, 125, 400]);
  assert.deepEqual(bundled([1, 2, 3]), { each: 1, bars: [1, 2, 3] });
  assert.equal(scaleTop(ms), 48);
  assert.equal(scaleTop([10, 12, 14]), 14);
  assert.equal(scaleTop([5]), 5);
});

test('contexts are doubled up to what the model knows, with the memory of each', async () => {
  assert.deepEqual(offeredContexts(8192), [512, 1024, 2048, 4096, 8192]);
  assert.deepEqual(offeredContexts(3000), [512, 1024, 2048, 3000]);
  assert.deepEqual(offeredContexts(256), [256]);
  assert.equal(offeredContexts(1e6).at(-1), 65536);
  const memory = { weights: 30, arena: { 1: 1000 }, kv: 800, context: 2048, positions: 8192 };
  assert.equal(predictMemory({ memory }, 1, 4096) - predictMemory({ memory }, 1), 800, 'only keys and values grow');
  assert.equal(predictMemory({ memory }, 1) - predictMemory({ memory }, 1, 512), 600);
  const variants = [{ name: 'simd128', path: 'kernels/a.wasm', threads: false, relaxed: false }];
  const manifest = { memory, engine: { variants }, weights: [], files: [] };
  const store = { kept: async () => new Set(), trouble: '', notes: [] };
  const { context, contexts } = await plan(store, manifest, { threads: 1 });
  assert.deepEqual([context, contexts.map((c) => c.tokens)], [2048, offeredContexts(8192)]);
  await assert.rejects(plan(store, manifest, { threads: 1, context: 9000 }), /context=9000/);
});
