// The runtime's pure parts under Node, the kernel included: `node --test tests/web/`. Browsers run all of it in
// test_browsers.py.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import test from 'node:test';
import { gzipSync } from 'node:zlib';

const web = new URL('../../smollm_nb/browser/runtime/', import.meta.url);
const load = (name) => import(new URL(name, web));
const { fromPlain, parameterError, toPlain } = await load('errors.js');
const { median, niceStep } = await load('chart.js');
const { fitContext, generate, readOptions, sharedPrefix } = await load('generate.js');
const { describeLens, fitLens, readLens } = await load('lens.js');
const { Lookup, MOST } = await load('lookup.js');
const { readConfig, readHead } = await load('q4.js');
const { sha256, sha256Plain } = await load('sha256.js');
const { readManifest } = await load('manifest.js');
const { byRole, inflate, Store } = await load('store.js');
const { checkMessages, StopStrings, StreamDecoder, Tokenizer } = await load('text.js');
const { choices, pickContext, plan, predictMemory } = await load('variants.js');

test('errors survive the way between threads', () => {
  const e = fromPlain(structuredClone(toPlain(parameterError('no'))));
  assert.deepEqual([e.name, e.message], ['ParameterError', 'no']);
  assert.equal(fromPlain({ name: 'AbortError', message: '' }).name, 'AbortError');
  assert.equal(toPlain('text').message, 'text');
  const raw = toPlain(new RangeError('Invalid array length\nat x'));
  assert.deepEqual(raw, { name: 'EngineError', message: 'the browser refused: RangeError: Invalid array length' });
});

test('SHA-256 in plain JavaScript equals that of Node, at every length about a block', async () => {
  for (const n of [0, 1, 3, 54, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 1000, 70000]) {
    const bytes = Uint8Array.from({ length: n }, (_, i) => (i * 131 + n) & 255);
    const want = createHash('sha256').update(bytes).digest('hex');
    assert.equal(sha256Plain(bytes), want, `${n} bytes`);
    assert.equal(sha256Plain(new Uint8Array([9, ...bytes]).subarray(1)), want, `${n} bytes at an odd place`);
    assert.equal(await sha256(bytes), want);
  }
});

test('round numbers for a scale', () => {
  for (const top of [0.07, 0.9, 3, 17, 99, 1234]) {
    const step = niceStep(top);
    const n = Math.ceil(top / step);
    assert.ok(n >= 2 && n <= 5, `${top}: ${n} steps of ${step}`);
  }
  assert.deepEqual([median([3, 1, 2]), median([4, 1, 2, 3]), median([])], [2, 2.5, NaN]);
});

test('stop strings never leak, however the text is cut', () => {
  for (const [stops, text, want, found] of [
    [['END'], 'to the END of it', 'to the ', true],
    ['ab', 'aab', 'a', true],
    [['xyz', 'yz'], 'wxyz', 'w', true],
    [['aac'], 'aaab', 'aaab', false],
    [[], 'all', 'all', false],
  ]) {
    for (let cut = 1; cut <= text.length; cut++) {
      const s = new StopStrings(stops);
      let out = '';
      for (let i = 0; i < text.length; i += cut) out += s.push(text.slice(i, i + cut));
      assert.equal(out + s.flush(), want, `${text} by ${cut}`);
      assert.equal(s.found, found);
    }
  }
  assert.throws(() => new StopStrings(['a', '']), /at least one character/);
  assert.throws(() => new StopStrings([1]), { name: 'ParameterError' });
});

test('stop strings that hold special tokens, and special tokens between the rest', () => {
  const special = ['<e>', '<s>'];
  for (const [stops, pieces, want, found] of [
    [['<e>'], ['to the ', '<e>', 'end'], 'to the ', true],
    [['<e>\n'], ['a', '<e>', 'b', '<e>', '\n'], 'ab', true],
    [['END<e>'], ['the EN', 'D', '<s>', 'END', '<e>'], 'the END', true],
    [['END'], ['the EN', '<s>', 'D'], 'the ', true],
    [['<e>x', 'b'], ['a', '<e>', 'b'], 'a', true],
    [['<e>x'], ['a', '<e>', 'b'], 'ab', false],
    [[], ['a', '<e>', 'b'], 'ab', false],
  ]) {
    const s = new StopStrings(stops, special);
    const out = pieces.map((p) => s.push(p, special.includes(p)));
    assert.equal(out.join('') + s.flush(), want, `${stops} in ${pieces.join('|')}`);
    assert.equal(s.found, found, `${stops} in ${pieces.join('|')}`);
  }
});

// a tokenizer of single bytes: id b + 10 is byte b, ids below are special
const symbols = Array.from({ length: 256 }, (_, b) => b);
class Bytes {
  constructor(json) {
    this.json = json;
    this.model = {
      tokens_to_ids: new Map(Object.entries(json.model?.vocab ?? {})),
      vocab: Object.keys(json.model?.vocab ?? {}),
      bpe_ranks: new Map(),
    };
  }

  encode(text) {
    return { ids: [...new TextEncoder().encode(text)].map((b) => b + 10) };
  }
  id_to_token(id) {
    const b = id - 10;
    const visible = (b >= 0x21 && b < 0x7f) || (b >= 0xa1 && b < 0xad) || b >= 0xae;
    return b < 0 || b > 255
      ? undefined
      : String.fromCharCode(
          visible
            ? b
            : 0x100 +
                symbols.filter((x) => x < b && !((x >= 0x21 && x < 0x7f) || (x >= 0xa1 && x < 0xad) || x >= 0xae))
                  .length,
        );
  }
}
class Template {
  // "<s>role:content…" as the tiny model's
  constructor(text) {
    this.text = text;
  }
  render({ messages }) {
    if (this.text === 'bad') throw new Error('unknown word');
    if (this.text === 'endless') return messages.map((m) => `${m.role}: ${m.content}\n`).join('');
    return messages.map((m) => `<s>${m.role}\n${m.content}</s>`).join('') + '<s>';
  }
}
const json = {
  decoder: { type: 'ByteLevel' },
  added_tokens: [
    { id: 1, content: '<s>', special: true },
    { id: 2, content: '</s>', special: true },
    { id: 3, content: '<s>>', special: true },
  ],
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [{ type: 'Digits', individual_digits: true }, { type: 'ByteLevel' }],
  },
};
const tokenizer = new Tokenizer(
  Bytes,
  Template,
  json,
  { bos_token: { content: '<s>' }, eos_token: '</s>' },
  'template',
);
const bytes = (text) => [...new TextEncoder().encode(text)].map((b) => b + 10);

test('special tokens only where they are asked for', () => {
  assert.deepEqual(tokenizer.encode('a<s>b'), bytes('a<s>b'));
  assert.deepEqual(tokenizer.encode('a<s>b</s>', true), [...bytes('a'), 1, ...bytes('b'), 2]);
  assert.deepEqual(tokenizer.encode('<s>>', true), [3], 'the longest first');
  assert.deepEqual(tokenizer.encode(''), []);
  assert.throws(() => tokenizer.encode('\udc00'), /surrogate/);
  assert.throws(() => tokenizer.encode(5), { name: 'TokenizerError' });
  assert.deepEqual([tokenizer.bos, tokenizer.eos], ['<s>', '</s>']);
  assert.equal(tokenizer.library.json.pre_tokenizer.pretokenizers[0].pattern.Regex, '\\p{N}');
});

test('a text is read with the tokens that belong around it', () => {
  const named = { ...json, around: [[1], [2]], special_tokens: { bos_token: '<s>' } };
  const other = new Tokenizer(Bytes, Template, named, { bos_token: 'x', eos_token: 'y' });
  assert.deepEqual(other.encodePrompt('a<s>'), [1, ...bytes('a<s>'), 2]);
  assert.deepEqual(other.encodePrompt('<s>', true), [1, 1, 2]);
  assert.deepEqual(tokenizer.encodePrompt('a'), bytes('a'));
  assert.deepEqual([other.bos, other.eos], ['<s>', null]);
});

test('what a tokenizer puts around texts, and white space that its tokens swallow', () => {
  const template = (single) => ({
    type: 'TemplateProcessing',
    single,
    special_tokens: { '<s>': { id: '<s>', ids: [1] }, '</s>': { id: '</s>', ids: [2, 3] } },
  });
  const s = { SpecialToken: { id: '<s>', type_id: 0 } };
  const e = { SpecialToken: { id: '</s>', type_id: 0 } };
  const a = { Sequence: { id: 'A', type_id: 0 } };
  for (const [post_processor, before, behind] of [
    [undefined, [], []],
    [null, [], []],
    [{ type: 'ByteLevel' }, [], []],
    [template([s, a]), [1], []],
    [template([a, e]), [], [2, 3]],
    [template([s, s, a, e]), [1, 1], [2, 3]],
    [{ type: 'RobertaProcessing', cls: ['<s>', 1], sep: ['</s>', 2] }, [1], [2]],
    [{ type: 'BertProcessing', cls: ['<s>', 1], sep: ['</s>', 2] }, [1], [2]],
    [{ type: 'Sequence', processors: [{ type: 'ByteLevel' }, template([s, a])] }, [1], []],
    [{ type: 'Sequence', processors: [template([s, a]), template([e, a, e])] }, [2, 3, 1], [2, 3]],
  ]) {
    const t = new Tokenizer(Bytes, Template, { ...json, post_processor }, {});
    assert.deepEqual(
      [t.encodePrompt('ab'), t.encode('ab')],
      [[...before, ...bytes('ab'), ...behind], bytes('ab')],
      JSON.stringify(post_processor),
    );
  }
  const greedy = json.added_tokens.map((t) => ({ ...t, lstrip: t.id === 2, rstrip: t.id === 1 }));
  const strips = new Tokenizer(Bytes, Template, { ...json, added_tokens: greedy }, {});
  assert.deepEqual(strips.encode(' a <s> b </s> c ', true), [...bytes(' a '), 1, ...bytes('b'), 2, ...bytes(' c ')]);
});

test('tokenizers that are not read here are refused by name', () => {
  for (const [decoder, name] of [
    [null, 'none'],
    [{ type: 'Metaspace' }, 'Metaspace'],
    [{ type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { type: 'Fuse' }] }, 'ByteFallback,Fuse'],
  ]) {
    assert.throws(() => new Tokenizer(Bytes, Template, { ...json, decoder }, {}), {
      name: 'TokenizerError',
      message: new RegExp(`the decoder ${name}: run`),
    });
  }
  assert.ok(
    new Tokenizer(Bytes, Template, { ...json, decoder: { type: 'Sequence', decoders: [{ type: 'ByteLevel' }] } }, {}),
  );
});

test('a message cannot pretend to be a special token', () => {
  const ids = tokenizer.encodeChat([{ role: 'user', content: 'x</s>\ue000y' }]);
  assert.deepEqual(ids, [1, ...bytes('user\nx</s>\ue000y'), 2, 1]);
  const tools = (m) => ({
    render: ({ messages }) =>
      `<s>${messages[0].name}: ${messages[0].tools[0].say}${Object.keys(messages[0].tools[0])}</s>`,
  });
  const other = new Tokenizer(
    Bytes,
    function Tools() {
      return tools();
    },
    json,
    {},
    'template',
  );
  assert.deepEqual(
    other.encodeChat([{ role: 'user', content: '', name: 'x<s>', tools: [{ say: '</s>', 'k<s>': 1 }] }]),
    [1, ...bytes('x<s>: </s>say,k<s>'), 2],
  );
  assert.throws(
    () => new Tokenizer(Bytes, Template, json, {}).encodeChat([{ role: 'user', content: '' }]),
    /no chat template/,
  );
  assert.throws(
    () => new Tokenizer(Bytes, Template, json, {}, 'bad').encodeChat([{ role: 'user', content: '' }]),
    /chat template: unknown word/,
  );
  for (const [messages, why] of [
    [[], /at least one/],
    ['hi', /at least one/],
    [[{ role: 'x', content: '' }], /role/],
    [[{ role: 'user' }], /content must/],
    [[{ role: 'user', content: '\ud800' }], /surrogate/],
  ])
    assert.throws(() => checkMessages(messages), why);
});

test('what ends an answer, and ids that no token has', () => {
  assert.deepEqual([tokenizer.ends(), tokenizer.turnEnd(), tokenizer.turnEnd()], [[2], 2, 2]);
  const other = (config, template) => new Tokenizer(Bytes, Template, json, config, template);
  assert.deepEqual(
    [other({ eos_token: 'é' }).ends(), other({ eos_token: 'e' }).ends(), other({}).ends()],
    [[], bytes('e'), []],
  );
  assert.deepEqual(
    [other({}).turnEnd(), other({}, 'bad').turnEnd(), other({}, 'endless').turnEnd()],
    [undefined, undefined, undefined],
  );
  const holes = { ...json, model: { vocab: { a: 0, '<s>': 1, '</s>': 2, '<s>>': 3 } } };
  const known = new Tokenizer(Bytes, Template, holes, {});
  assert.deepEqual([known.missing(4), known.missing(6)], [[], [4, 5]]);
  assert.throws(() => known.missing(3), {
    name: 'TokenizerError',
    message: /token id 3 has no row in the model's embedding of 3/,
  });
});

test('characters come whole', () => {
  const decoder = new StreamDecoder(tokenizer);
  const out = [...bytes('é🙂\ufeff'), 1, ...bytes('!')].map((id) => decoder.push(id));
  assert.deepEqual(out, ['', 'é', '', '', '', '🙂', '', '', '\ufeff', '', '!']);
  decoder.push(0xf0 + 10);
  assert.equal(decoder.flush(), '\ufffd');
  assert.throws(() => tokenizer.bytes(999), /not in the vocabulary/);
});

/** A model that counts: it says the bytes of a text, one after another. */
const counter = (text, more = {}) => ({
  tokens: [],
  context: 300,
  config: { eos: [2], bos: 1 },
  said: bytes(text),
  at: 0,
  history: [],
  startSampling() {
    this.at = 0;
  },
  sample(history) {
    this.history.push(history);
    return this.said[this.at++ % this.said.length];
  },
  decode(id, pos) {
    this.tokens[pos] = id;
  },
  async prefill(ids, pos, shouldContinue) {
    this.tokens.splice(pos, Infinity, ...ids);
    return shouldContinue();
  },
  ...more,
});
async function run(backend, ids, options, shouldContinue = async () => true) {
  const answer = generate(backend, tokenizer, ids, options, shouldContinue);
  const tokens = [];
  for (;;) {
    const { done, value } = await answer.next();
    if (done) return { ...value, tokens };
    tokens.push(value);
  }
}

test('the loop: length, end of text, stop string, cancel', async () => {
  const a = await run(counter('hello'), [20, 21], { maxTokens: 5 });
  assert.deepEqual(
    [a.text, a.finish_reason, a.tokens.map((t) => t.text).join(''), a.timings.new_tokens, a.timings.itl_s.length],
    ['hello', 'length', 'hello', 5, 4],
  );
  const end = counter('');
  end.said = [...bytes('hé'.slice(0, 1)), 0xc3 + 10, 2];
  assert.deepEqual((({ text, finish_reason, ids }) => [text, finish_reason, ids.length])(await run(end, [20], {})), [
    'h\ufffd',
    'eos',
    3,
  ]);
  assert.equal((await run(counter('abcSTOPdef'), [20], { stop: 'STOP' })).text, 'abc');
  const special = counter('');
  special.config = { eos: [], bos: 1 };
  for (const [said, stop, text, reason, count] of [
    [[...bytes('ab'), 3, ...bytes('c')], '<s>>', 'ab', 'stop', 3],
    [[...bytes('ab'), 3, ...bytes('c'), 2], 'never', 'abc', 'eos', 5], // as the chat template ends a turn
    [[...bytes('a'), 1, ...bytes('bc')], 'ab', '', 'stop', 3],
  ]) {
    special.said = said;
    const r = await run(special, [20], { stop });
    assert.deepEqual(
      [r.text, r.finish_reason, r.ids.length, r.tokens.map((t) => t.text).join('')],
      [text, reason, count, text],
    );
  }
  let n = 0;
  const untouched = counter('x', {
    startSampling() {
      throw new Error('touched');
    },
  });
  assert.equal((await run(untouched, [20], {}, async () => false)).finish_reason, 'cancelled');
  const c = await run(counter('hello'), [20], {}, async () => ++n < 4);
  assert.deepEqual([c.finish_reason, c.text, c.ids.length], ['cancelled', 'he', 2]);
  assert.equal((await run(counter('x'), [20], { maxTokens: 0 })).finish_reason, 'length');
  assert.deepEqual((await run(counter('x'), [], { maxTokens: 1 })).prompt_ids, [1]);
  await assert.rejects(run(counter('x', { config: { eos: [], bos: null } }), [], {}), /prompt is empty/);
});

test('the penalty sees prompt and answer, and only when it is on', async () => {
  const on = counter('ab');
  const off = counter('ab');
  await run(on, [20], { maxTokens: 2, repetitionPenalty: 1.1 });
  await run(off, [20], { maxTokens: 2 });
  assert.deepEqual(
    [on.history, off.history],
    [
      [[20], [20, ...bytes('a')]],
      [[], []],
    ],
  );
});

test('what is known already is not read again', async () => {
  const backend = counter('abc');
  await run(backend, [20, 21, 22], { maxTokens: 2 });
  const again = await run(backend, [20, 21, 30], { maxTokens: 1 });
  assert.deepEqual([again.timings.cached_tokens, again.timings.prompt_tokens], [2, 3]);
  assert.equal(
    (await run(backend, [20, 21, 30], { maxTokens: 1 })).timings.cached_tokens,
    2,
    'the last token is read again for its scores',
  );
  assert.deepEqual([sharedPrefix([1, 2], [1, 2, 3]), sharedPrefix([], [1]), sharedPrefix([1, 5], [1, 2])], [2, 0, 1]);
});

test('options and the context', () => {
  assert.equal(readOptions({ seed: '18446744073709551615' }).seed, (1n << 64n) - 1n);
  assert.deepEqual(readOptions({ stop: 'a', temperature: undefined }).stop, ['a']);
  assert.equal(readOptions(undefined).maxTokens, 128);
  for (const bad of [
    { topP: 2 },
    { topK: 1.5 },
    { maxTokens: -1 },
    { minP: NaN },
    { temperature: '1' },
    { seed: -1 },
    { seed: 1.5 },
    { seed: true },
    { seed: '' },
    { stop: 5 },
    { overflow: 'x' },
    { other: 1 },
  ])
    assert.throws(() => readOptions(bad), { name: 'ParameterError' });
  assert.deepEqual(fitContext([1, 2, 3], 4, 5, 'drop_oldest'), { prompt: [3], budget: 4, cut: 'prompt' });
  assert.deepEqual(fitContext([1, 2, 3], 4, 5, 'stop'), { prompt: [1, 2, 3], budget: 2, cut: 'answer' });
  assert.throws(() => fitContext([1, 2, 3], 4, 5, 'error'), { name: 'ContextOverflowError' });
  assert.throws(() => fitContext([1, 2, 3], 5, 5, 'drop_oldest'), { name: 'ContextOverflowError' });
});

test('the lens of an answer: options', () => {
  assert.deepEqual([readLens(false), readLens(true)], [null, { top: 5 }]);
  assert.deepEqual(readLens({ layers: [0, 3], top: 2 }), { layers: [0, 3], top: 2 });
  const config = { layers: 3, vocab: 4 };
  assert.deepEqual(fitLens({ top: 5 }, config), { layers: [0, 1, 2, 3], top: 4 });
  assert.throws(() => fitLens({ layers: [4], top: 1 }, config), {
    name: 'ParameterError',
    message: /4 is not in 0..3/,
  });
  for (const bad of [
    5,
    'yes',
    [],
    { top: 0 },
    { top: 65 },
    { top: 1.5 },
    { layers: [] },
    { layers: [1, 1] },
    { layers: [2, 1] },
    { layers: [-1] },
    { layers: 3 },
    { layer: [1] },
  ])
    assert.throws(() => readOptions({ lens: bad }), { name: 'ParameterError' }, JSON.stringify(bad));
});

test('the lens of an answer: what each token comes with, and a prompt whose last token is read alone', async () => {
  const read = [];
  const backend = counter('hi', {
    config: { eos: [2], bos: 1, layers: 2, vocab: 300 },
    look(id, pos, { layers, top }) {
      this.decode(id, pos);
      read.push([id, pos]);
      return {
        ids: Int32Array.from({ length: layers.length * top }, (_, i) => bytes('xyz!')[i]),
        probabilities: Float32Array.from({ length: layers.length * top }, (_, i) => 0.5 / (i + 1)),
      };
    },
  });
  const how = { maxTokens: 2, lens: { layers: [0, 2], top: 2 } };
  const { ids, tokens, timings } = await run(backend, [20, 21, 22], how);
  assert.deepEqual(read, [
    [22, 2],
    [ids[0], 3],
  ]);
  assert.equal(timings.prompt_tokens, 3);
  assert.deepEqual(tokens[1].lens, {
    text: 'i',
    layers: [
      { layer: 0, ids: bytes('xy'), texts: ['x', 'y'], probabilities: [0.5, 0.25] },
      { layer: 2, ids: bytes('z!'), texts: ['z', '!'], probabilities: [Math.fround(0.5 / 3), 0.125] },
    ],
  });
  assert.ok(!('lens' in (await run(counter('hi'), [20], { maxTokens: 1 })).tokens[0]), 'off by default');
  const seen = { ids: Int32Array.of(1, 0xc3 + 10, 999), probabilities: Float32Array.of(1, 0, 0) };
  assert.deepEqual(describeLens(tokenizer, 1, [0], seen).layers[0].texts, ['<s>', '\ufffd', '']);
});

test('drafts: the longest match, the newest place, as many as pay', () => {
  assert.deepEqual(new Lookup([]).draft(7), []);
  assert.deepEqual(new Lookup([1, 2, 3, 4]).draft(7), [], 'nothing repeats');
  const found = (ids, most = MOST) => {
    const lookup = new Lookup(ids);
    for (let i = 0; i < 40; i++) {
      const { length } = lookup.draft(MOST);
      lookup.note(length, length); // all are right
    }
    return lookup.draft(most);
  };
  assert.deepEqual(found([1, 2, 3, 9, 1, 2, 4, 8, 0, 1, 2]), [4, 8, 0, 1, 2], 'the newest; up to the end');
  assert.deepEqual(found([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2]), [7, 6, 1, 2, 8, 5, 1], 'a longer match, though older');
  assert.deepEqual(found([3, 3, 3, 3, 3, 3]), [3], 'text that repeats itself at once');
  assert.deepEqual(found([1, 2, 3, 4, 1, 2], 2), [3, 4]);
  assert.deepEqual(found([1, 2, 3, 4, 1, 2], 0), []);
  assert.deepEqual(found(['12', 3, 4, 1, 23]), [], 'ids are not run together');
  const grown = new Lookup([1, 2, 3, 4]);
  grown.extend([1, 2]);
  assert.ok(grown.draft(7).length > 0 && grown.draft(7)[0] === 3);
});

test('drafts: wrong ones end them, and they come back', () => {
  const text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2];
  const wrong = new Lookup(text);
  let tries = 0;
  for (; tries < 100 && wrong.draft(7).length; tries++) wrong.note(wrong.draft(7).length, 0);
  assert.ok(tries > 1 && tries < 20, `${tries} tries`);
  for (let i = 0; i < 9; i++) wrong.note(0, 0);
  assert.deepEqual(wrong.draft(7), [], 'they would have been wrong');
  let chances = 0;
  for (; !wrong.draft(7).length; chances++) {
    wrong.extend([3]); // what the text says
    wrong.note(0, 0);
    wrong.extend([...text.slice(3), 4, 1, 2]);
  }
  assert.ok(chances > 1 && chances < 20, `${chances} left out that would have been right`);
  const silent = new Lookup([1, 2, 3]);
  silent.draft(7);
  silent.note(0, 0);
  const right = new Lookup(text);
  const first = right.draft(7).length;
  for (let i = 0; i < 20; i++) right.note(right.draft(7).length, right.draft(7).length);
  assert.ok(right.draft(7).length > first && right.draft(7).length === 7, 'what is right grows');
});

/** A model whose next token depends on the two before it in its cache, and on how often it was asked. */
const repeating = (modulus, more = {}) => {
  const score = (tokens, end, draw) => 20 + ((3 * tokens[end] + 5 * (tokens[end - 1] ?? 0) + (draw >> 5)) % modulus);
  return {
    ...counter(''),
    config: { eos: [2], bos: 1, layers: 2, vocab: 300 },
    passes: [],
    sample(history, row = -1) {
      this.history.push(history);
      const end = row < 0 ? this.tokens.length - 1 : this.first + row;
      assert.ok(end < this.tokens.length);
      return score(this.tokens, end, this.at++);
    },
    read(ids, pos) {
      assert.ok(pos <= this.tokens.length && pos + ids.length <= this.context, 'no holes, no overflow');
      this.tokens.splice(pos, Infinity, ...ids);
      this.passes.push(ids.length);
    },
    decode(id, pos) {
      this.read([id], pos);
    },
    verify(ids, pos) {
      this.read(ids, pos);
      this.first = pos;
      return true;
    },
    ...more,
  };
};

test('an answer with drafts is the answer without', async () => {
  for (const modulus of [1, 2, 3, 5, 7, 11])
    for (const [how, context] of [
      [{ maxTokens: 120 }, 300],
      [{ maxTokens: 120, repetitionPenalty: 1.2, temperature: 1, seed: 3 }, 300],
      [{ maxTokens: 3 }, 300],
      [{ maxTokens: 200, overflow: 'stop' }, 60],
      [{ maxTokens: 20, overflow: 'drop_oldest' }, 23],
    ]) {
      const [on, off] = [repeating(modulus, { context }), repeating(modulus, { context })];
      const prompt = [21, 22, 20, 21, 22];
      const a = await run(on, prompt, how);
      const b = await run(off, prompt, { ...how, lookup: false });
      const same = ({ ids, text, finish_reason, truncated, tokens }) => [
        { ids, text, finish_reason, truncated },
        tokens.map(({ id, text, index }) => ({ id, text, index })),
      ];
      assert.deepEqual(same(a), same(b), JSON.stringify([modulus, how]));
      assert.deepEqual(on.history, off.history);
      assert.equal(b.timings.passes, b.ids.length);
      assert.equal(a.timings.passes, 1 + on.passes.length);
      assert.ok(Math.max(...on.passes, 1) <= 1 + MOST && off.passes.every((n) => n === 1));
      if (modulus < 6 && a.ids.length > 100) assert.ok(a.timings.passes < a.ids.length, `${modulus}: ${on.passes}`);
    }
});

test('drafts: no memory, a lens, a cancel between them, the next answer', async () => {
  const none = repeating(3, { verify: () => false });
  const how = { maxTokens: 60 };
  const want = (await run(repeating(3), [21, 22], { ...how, lookup: false })).ids;
  assert.deepEqual((await run(none, [21, 22], how)).ids, want, 'the browser gives no memory for them');
  const looked = repeating(3, {
    look(id, pos, { layers, top }) {
      this.decode(id, pos);
      const n = layers.length * top;
      return { ids: new Int32Array(n).fill(20), probabilities: new Float32Array(n) };
    },
    verify() {
      throw new Error('a lens looks at single tokens');
    },
  });
  assert.deepEqual((await run(looked, [21, 22], { ...how, lens: true })).ids, want);
  for (let most = 1; most < 40; most++) {
    let asked = 0;
    const backend = repeating(3);
    // the prompt asks twice: before it, and between its tiles
    const r = await run(backend, [21, 22], how, async () => ++asked <= most + 1);
    assert.deepEqual([r.finish_reason, r.ids], ['cancelled', want.slice(0, most)]);
    const before = backend.passes.length;
    const again = await run(backend, [21, 22, ...want.slice(0, 9)], { maxTokens: 20, lookup: false });
    assert.ok(again.timings.cached_tokens >= Math.min(2 + most - 1, 10), 'what was read is known');
    assert.equal(backend.passes.length - before, 19);
    const fresh = await run(repeating(3), [21, 22, ...want.slice(0, 9)], { maxTokens: 20, lookup: false });
    assert.deepEqual(again.ids, fresh.ids, 'wrong drafts are forgotten');
  }
});

test('the head of a file', () => {
  const header = {
    config: {
      vocab_size: 8,
      hidden_size: 64,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 1,
      eos_token_id: [2, 3],
      rope_parameters: { rope_theta: 5 },
    },
    tensors: [
      {
        name: 'model.layers.3.mlp.down_proj.weight',
        parts: [{ rows: [0, 64], format: 'int8-row-f32', offset: 128, bytes: 64 }],
      },
    ],
  };
  const make = (h, version = 1) => {
    const raw = new TextEncoder().encode(JSON.stringify(h));
    const out = new Uint8Array(50 + raw.length);
    out.set(new TextEncoder().encode('SMOLLM_Q4'));
    out[9] = version;
    new DataView(out.buffer).setBigUint64(10, BigInt(raw.length), true);
    out.set(raw, 50);
    return out;
  };
  const { config, parts } = readHead(make(header));
  assert.deepEqual(parts, [{ tensor: 11, layer: 3, begin: 0, end: 64, format: 1, offset: 128, bytes: 64 }]);
  assert.deepEqual(
    [config.eos, config.bos, config.headDim, config.kvHeads, config.ropeTheta, config.tied],
    [[2, 3], null, 64, 1, 5, false],
  );
  assert.throws(() => readHead(make(header, 2)), /version 1/);
  assert.throws(() => readHead(make(header).subarray(0, 80)), /no JSON/);
  assert.throws(
    () => readHead(make({ ...header, tensors: [{ name: 'constructor', parts: [{ format: 'f32', rows: [0, 1] }] }] })),
    { name: 'BundleError' },
  );
  assert.throws(
    () => readHead(make({ ...header, tensors: [{ name: 'model.norm.weight', parts: [{ format: 'toString' }] }] })),
    { name: 'BundleError' },
  );
  assert.throws(
    () => readHead(make({ ...header, tensors: [{ name: 'lm_head.bias', parts: [{ format: 'f32', rows: [0, 1] }] }] })),
    /lm_head.bias/,
  );
  assert.throws(
    () => readHead(make({ ...header, tensors: [{ name: 'model.norm.weight', parts: [{ format: 'f16' }] }] })),
    /in f16/,
  );
  assert.equal(readConfig({ head_dim: 32, eos_token_id: 2 }).headDim, 32);
});

const digest = 'a'.repeat(64);
const manifest = {
  manifest_version: 1,
  name: 'm',
  version: 'v',
  parameters: 1,
  model: { bytes: 30 },
  memory: { weights: 30, arena: { 1: 100, 4: 400 }, context: 10 },
  weights: [
    { path: 'weights/0.gz', offset: 0, bytes: 20, stored: 10, sha256: digest, raw_sha256: digest },
    { path: 'weights/1.gz', offset: 20, bytes: 10, stored: 10, sha256: digest, raw_sha256: digest },
  ],
  files: [
    { path: 'kernels/a.wasm', role: 'kernel', bytes: 5, stored: 5, sha256: digest },
    { path: 'kernels/b.wasm', role: 'kernel', bytes: 5, stored: 5, sha256: digest },
    { path: 'config.json', role: 'config', bytes: 7, stored: 7, sha256: digest },
  ],
  engine: {
    variants: [
      { name: 'threads', path: 'kernels/b.wasm', threads: true },
      { name: 'plain', path: 'kernels/a.wasm', threads: false },
    ],
  },
  self_test: { prompt_ids: [1], greedy_ids: [2], logits_sha256: digest },
};
const changed = (change) => {
  const m = structuredClone(manifest);
  change(m);
  return JSON.stringify(m);
};

test('a manifest is believed only as far as it is sound', () => {
  assert.equal(byRole(readManifest(JSON.stringify(manifest)), 'config').path, 'config.json');
  for (const [text, why] of [
    [JSON.stringify(manifest).slice(0, 99), /cut short/],
    ['<html>', /no JSON/],
    ['', /no JSON/],
    ['{"manifest_version": 2}', /version 2/],
    [
      changed((m) => {
        m.weights[0].path = '../x';
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        m.files[0].path = 'https://x/y';
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        m.files[0].path = '/x';
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        m.weights[1].offset = 21;
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        m.weights[0].stored = -1;
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        delete m.weights[0].raw_sha256;
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        m.weights[0] = null;
      }),
      /file 0 is not sound/,
    ],
    [
      changed((m) => {
        m.files[1] = null;
      }),
      /file 3 is not sound/,
    ],
    [
      changed((m) => {
        m.weights = null;
      }),
      /add up to 0/,
    ],
    [
      changed((m) => {
        m.files = { length: 9 };
      }),
      /does not list/,
    ],
    [
      changed((m) => {
        m.weights[0].bytes = 2 ** 40;
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        m.files[0].stored = 2 ** 31;
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        m.files[0].bytes = 1e300;
      }),
      /not sound/,
    ],
    [
      changed((m) => {
        m.files[0].path = null;
      }),
      /file 2 is not sound/,
    ],
    [
      changed((m) => {
        m.files[2].path = 'config.json.gz';
      }),
      /config.json.gz is not sound/,
    ],
    [
      changed((m) => {
        m.files[2] = m.files[1];
      }),
      /lists kernels\/b.wasm twice/,
    ],
    [
      changed((m) => {
        m.files = Array(5000).fill(m.files[0]);
      }),
      /lists 5002 files/,
    ],
    [
      changed((m) => {
        m.engine.variants[0] = null;
      }),
      /does not list kernel 0/,
    ],
    [
      changed((m) => {
        m.engine = null;
      }),
      /no engine/,
    ],
    [
      changed((m) => {
        m.self_test.greedy_ids = [null];
      }),
      /self-test/,
    ],
    [
      changed((m) => {
        m.memory = null;
      }),
      /memory/,
    ],
    [
      changed((m) => {
        m.memory.arena[1] = null;
      }),
      /memory/,
    ],
    [
      changed((m) => {
        m.memory.context = 0;
      }),
      /memory/,
    ],
    [
      changed((m) => {
        m.name = null;
      }),
      /which model/,
    ],
    ['null', /version undefined/],
    ['[]', /version undefined/],
    [
      changed((m) => {
        m.weights.pop();
      }),
      /add up to 20/,
    ],
    [
      changed((m) => {
        m.engine.variants[0].path = 'kernels/c.wasm';
      }),
      /does not list/,
    ],
    [
      changed((m) => {
        m.self_test = null;
      }),
      /self-test/,
    ],
  ])
    assert.throws(
      () => readManifest(text),
      (e) => e.name === 'BundleError' && /^model_manifest.json: /.test(e.message) && why.test(e.message),
      text,
    );
});

test('which build, how many threads, and why', async () => {
  assert.deepEqual(
    choices(manifest, 2, '').map((c) => [c.variant, c.threads]),
    [
      ['threads', 2],
      ['plain', 1],
    ],
  );
  const more = {
    engine: {
      variants: [
        { name: 'relaxed-threads', path: 'r', threads: true, relaxed: true },
        { name: 'relaxed', path: 'q', threads: false, relaxed: true },
        ...manifest.engine.variants,
      ],
    },
  };
  assert.deepEqual(
    choices(more, 2, '', true).map((c) => c.variant),
    ['relaxed-threads', 'threads', 'relaxed', 'plain'],
  );
  assert.deepEqual(
    choices(more, 2, '').map((c) => c.variant),
    ['relaxed-threads', 'threads', 'relaxed', 'plain'],
    'Node has relaxed SIMD',
  );
  assert.deepEqual(
    choices(more, 2, '', false).map((c) => c.variant),
    ['threads', 'plain'],
  );
  assert.deepEqual(choices(manifest, 2, 'no headers'), [
    { variant: 'plain', path: 'kernels/a.wasm', threads: 1, why: 'one thread: no headers' },
  ]);
  assert.match(choices(manifest, 1, '')[0].why, /as asked for/);
  assert.match(choices(manifest, 3)[0].why, /HTTPS or localhost/, 'Node is no secure context');
  assert.match(choices({ engine: { variants: [manifest.engine.variants[1]] } }, 2, '')[0].why, /no build/);
  assert.ok(choices(manifest, undefined, '')[0].threads >= 1);
  assert.throws(() => choices(manifest, 99), /threads=99/);
  assert.deepEqual(
    [pickContext({ positions: 8192 }), pickContext({ positions: 256 }), pickContext({ positions: 8192 }, 4096)],
    [2048, 256, 4096],
  );
  assert.throws(() => pickContext({ positions: 256 }, 257), /context=257/);
  assert.equal(predictMemory(manifest, 2) - predictMemory(manifest, 1), 300);
  assert.equal(predictMemory(manifest, 1, 20) - predictMemory(manifest, 1), 100);
  assert.throws(() => predictMemory({}, 1), /memory/);
  globalThis.caches = undefined;
  const p = await plan(new Store(new URL('https://x.test/m/')), manifest, { threads: 1 });
  assert.deepEqual([p.total, p.cached, p.threads], [32, 0, 1]);
  assert.match(p.notes.join(), /no secure context/);
  const two = await plan(new Store(new URL('https://x.test/m/')), manifest, { threads: 2 });
  assert.match(two.notes[0], /one thread: threads need HTTPS/, 'why not as many as were asked for');
});

const slowly = globalThis.setTimeout; // the pauses between tries are nobody's business here
globalThis.setTimeout = /** @type {any} */ ((f, ms, ...rest) => slowly(f, ms / 25, ...rest));

/** A server and a cache in memory. `answers` by path: bytes, a status, or an error. */
function world(answers, { cache = true, type = '' } = {}) {
  const held = new Map();
  const asked = [];
  const handle = {
    match: async (u) => (held.has(u) ? new Response(held.get(u)) : undefined),
    put: async (u, r) => held.set(u, new Uint8Array(await r.arrayBuffer())),
    delete: async (u) => held.delete(u.url ?? u),
    keys: async () => [...held.keys()].map((url) => ({ url })),
  };
  globalThis.caches = cache ? { open: async () => handle } : undefined;
  globalThis.fetch = async (url) => {
    const path = new URL(url).pathname.replace('/m/', '');
    asked.push(path);
    const list = answers[path];
    const a = Array.isArray(list) ? (list.length > 1 ? list.shift() : list[0]) : list;
    if (a instanceof Error) throw a;
    return typeof a === 'number'
      ? new Response('', { status: a })
      : new Response(a, { headers: type ? { 'Content-Type': type } : {} });
  };
  return { held, asked, handle, store: new Store(new URL('https://x.test/m/')) };
}
const sha = (b) => createHash('sha256').update(b).digest('hex');
const raw = new Uint8Array(5000).map((_, i) => i * 7);
const gz = new Uint8Array(gzipSync(raw));
const chunk = {
  path: 'weights/0.gz',
  offset: 0,
  bytes: raw.length,
  stored: gz.length,
  sha256: sha(gz),
  raw_sha256: sha(raw),
};
const at = (path) => `https://x.test/m/${path}`;
const place = async () => new Uint8Array(raw.length);

test('a chunk: fetched, verified, inflated, kept, and not fetched again', async () => {
  const { store, asked, held } = world({ 'weights/0.gz': gz });
  let counted = 0;
  const first = await store.chunk(chunk, place, (n) => {
    counted += n;
  });
  assert.deepEqual([first.cached, counted, sha(first.bytes)], [false, gz.length, chunk.raw_sha256]);
  assert.ok(await store.keep(chunk.path, first.bytes));
  assert.equal((await store.chunk(chunk, place)).cached, true);
  held.set(at(chunk.path), raw.slice(1));
  assert.deepEqual(
    [(await store.chunk(chunk, place)).cached, asked.length, held.size],
    [false, 2, 0],
    'a damaged one is thrown away and fetched',
  );
  assert.equal(store.spare.length, 1, 'one buffer serves all');
  const there = new Uint8Array(raw.length + 10);
  const { bytes } = await store.chunk(chunk, async () => there.subarray(10));
  assert.deepEqual(
    [bytes.buffer === there.buffer, sha(there.subarray(10))],
    [true, chunk.raw_sha256],
    'straight to its place',
  );
  await assert.rejects(inflate(gz.slice(0, 100), new Uint8Array(raw.length)));
  await assert.rejects(inflate(gz, new Uint8Array(raw.length - 1)), /longer/);
  await assert.rejects(inflate(gz, new Uint8Array(raw.length + 1)), /ended after/);
});

test('a host that undoes gzip on its own: either form is known by its hash, and one is kept', async () => {
  for (const form of [gz, raw]) {
    const { store, held, asked } = world({ 'weights/0.gz': form, 'tokenizer.json.gz': form, 'config.json': gz });
    let counted = 0;
    const first = await store.chunk(chunk, place, (n) => {
      counted += n;
    });
    assert.deepEqual([sha(first.bytes), counted], [chunk.raw_sha256, gz.length], 'counted as the manifest has it');
    const tokenizer = { ...chunk, path: 'tokenizer.json.gz' };
    const { bytes } = await store.file(tokenizer);
    assert.equal(sha(bytes), chunk.raw_sha256, 'gzip is undone');
    await store.keep(tokenizer.path, bytes);
    assert.deepEqual(
      [sha(held.get(at(tokenizer.path))), (await store.file(tokenizer)).cached, asked.length],
      [chunk.raw_sha256, true, 2],
    );
    const { raw_sha256, ...plain } = chunk;
    assert.equal(
      (await store.file({ ...plain, path: 'config.json' })).bytes.length,
      gz.length,
      'what is no .gz has one form',
    );
  }
});

test('no form without its hash', async () => {
  const long = new Uint8Array(raw.length).fill(65);
  const short = raw.slice(0, gz.length);
  for (const wrong of [long, short, raw.slice(0, 100), new Uint8Array()]) {
    const { store } = world({ 'weights/0.gz': wrong });
    await assert.rejects(
      store.chunk(chunk, place),
      { name: /^(Bundle|Fetch)Error$/, message: /^weights\/0.gz: / },
      `${wrong.length} bytes`,
    );
    await assert.rejects(store.file(chunk), { name: /^(Bundle|Fetch)Error$/ });
  }
});

test('a vocabulary that its merges spell', () => {
  const t = new Tokenizer(
    Bytes,
    Template,
    { ...json, vocab_from_merges: 2, model: { vocab: { a: 0, b: 1 }, merges: ['a b', 'ab a'] } },
    {},
  );
  const { tokens_to_ids: ids, vocab, bpe_ranks: ranks } = t.library.model;
  assert.deepEqual(
    [Object.fromEntries(ids), vocab, Object.fromEntries(ranks)],
    [{ a: 0, b: 1, ab: 2, aba: 3 }, ['a', 'b', 'ab', 'aba'], { '["a","b"]': 0, '["ab","a"]': 1 }],
  );
  assert.equal('vocab_from_merges' in t.library.json, false);
});

test('patience, and its end', async () => {
  const broken = new Error('reset');
  const flipped = gz.slice();
  flipped[20] ^= 1;
  let counted = 0;
  const count = (n) => {
    counted += n;
  };
  assert.equal(
    (await world({ 'weights/0.gz': [broken, 503, gz.slice(0, 50), gz] }).store.chunk(chunk, place, count)).bytes.length,
    raw.length,
  );
  assert.equal(counted, gz.length, 'what was lost is not counted');
  await assert.rejects(world({ 'weights/0.gz': 404 }).store.chunk(chunk, place), {
    name: 'FetchError',
    message: /^weights\/0.gz: .*404/,
  });
  await assert.rejects(world({ 'weights/0.gz': 403 }).store.chunk(chunk, place), {
    name: 'FetchError',
    message: /403/,
  });
  const wrong = world({ 'weights/0.gz': flipped });
  await assert.rejects(wrong.store.chunk(chunk, place), { name: 'BundleError', message: /^weights\/0.gz: .*SHA-256/ });
  assert.equal(wrong.asked.length, 2);
  await assert.rejects(world({ 'weights/0.gz': broken }).store.file({ ...chunk }), {
    name: 'FetchError',
    message: /no answer after 5 tries \(reset\)/,
  });
  const page = world({ 'weights/0.gz': '<!doctype html><title>Welcome</title>' }, { type: 'text/html; charset=utf-8' });
  await assert.rejects(page.store.chunk(chunk, place), {
    name: 'BundleError',
    message: /^weights\/0.gz: the server sent a web page in its place: copy/,
  });
  assert.equal(page.asked.length, 2);
});

test('the manifest without a network, and the version before', async () => {
  const text = JSON.stringify(manifest);
  const page = '<!doctype html>';
  const { store, held, asked } = world({
    'model_manifest.json': [
      text,
      new Error('down'),
      503,
      404,
      page,
      '{"manifest_version": 2}',
      text.slice(0, 50),
      new Error('down'),
    ],
  });
  const m = await store.manifest();
  assert.equal(store.note, '');
  (held.set(at('weights/old.gz'), raw), held.set(at('weights/0.gz'), raw));
  assert.deepEqual([...(await store.kept(m))], ['weights/0.gz']);
  await store.settle(m);
  assert.deepEqual([...held.keys()].sort(), [at('model_manifest.json'), at('weights/0.gz')]);
  for (const how of ['down', '503', '404', 'a web page', 'another version', 'cut short']) {
    assert.equal((await store.manifest()).version, 'v', `from the cache: ${how}`);
    assert.match(store.note, /the version that was kept is used/);
  }
  assert.equal(asked.length, 7, 'nobody is asked twice where there is one');
  held.clear();
  await assert.rejects(store.manifest(), { name: 'FetchError' });
  held.set(at('model_manifest.json'), new TextEncoder().encode('{"cut'));
  await assert.rejects(store.manifest(), { name: 'FetchError' }, 'a kept one that is damaged is none');
  const long = world({ 'model_manifest.json': ' '.repeat(5e6) });
  await assert.rejects(long.store.manifest(), {
    name: 'BundleError',
    message: /^model_manifest.json: is longer than 4194304/,
  });
});

test('what is missing is seen, where that is quick', async () => {
  const text = JSON.stringify(manifest);
  const { store, held, handle } = world({ 'model_manifest.json': text });
  const m = await store.manifest();
  const files = [...manifest.weights, ...manifest.files].map((f) => f.path);
  for (const path of files) held.set(at(path), raw);
  await store.settle(m);
  held.delete(at('weights/1.gz'));
  assert.equal((await store.kept(m)).size, files.length, 'the sign says that all is there');
  assert.deepEqual(
    files.filter((p) => !store.believed.has(p)),
    [],
  );
  assert.deepEqual(
    files.filter((p) => !held.has(at(p))),
    ['weights/1.gz'],
  );
  assert.ok(!(await store.kept(m, true)).has('weights/1.gz'));
  handle.keys = () => new Promise(() => {});
  assert.equal((await store.kept(m, true)).size, files.length, 'a list that takes long is not waited for');
});

test('bundles of two origins have two caches', () => {
  globalThis.origin = 'https://page.test';
  const names = ['https://page.test/m/', 'https://cdn.test/m/', 'https://other.test/m/'].map(
    (url) => new Store(new URL(url)).cacheName,
  );
  assert.deepEqual(names, ['smollm_nb /m/', 'smollm_nb https://cdn.test/m/', 'smollm_nb https://other.test/m/']);
});

test('a cache that is missing, full or broken is no reason to stop', async () => {
  const none = world({ 'weights/0.gz': gz }, { cache: false });
  assert.equal(await none.store.keep('a', raw), false);
  assert.match(none.store.trouble, /no secure context/);
  assert.equal((await none.store.chunk(chunk, place)).cached, false);
  assert.equal((await none.store.kept(manifest)).size, 0);
  await none.store.settle(manifest);
  const full = world({ 'weights/0.gz': gz });
  full.handle.put = async () => {
    throw new DOMException('full', 'QuotaExceededError');
  };
  assert.equal(await full.store.keep('a', raw), false);
  assert.match(full.store.trouble, /no room/);
  const broken = world({ 'weights/0.gz': gz });
  broken.store.caches = {
    open: async () => {
      throw new Error('denied');
    },
  };
  assert.equal((await broken.store.chunk(chunk, place)).cached, false);
  assert.match(broken.store.trouble, /denied/);
  Object.defineProperty(globalThis, 'caches', {
    configurable: true,
    get() {
      throw new DOMException('The operation is insecure.', 'SecurityError');
    },
  });
  const blocked = new Store(new URL('https://x.test/m/'));
  Object.defineProperty(globalThis, 'caches', { configurable: true, writable: true, value: undefined });
  assert.match(blocked.trouble, /keep nothing \(site data are blocked/);
  assert.deepEqual(
    [(await blocked.chunk(chunk, place)).cached, await blocked.keep('a', raw), blocked.notes.length],
    [false, false, 1],
  );
  const late = world({ 'weights/0.gz': gz });
  late.store.caches = {
    open: async () => {
      throw new DOMException('The operation is insecure.', 'SecurityError');
    },
  };
  assert.equal((await late.store.kept(manifest)).size, 0);
  assert.match(late.store.trouble, /site data are blocked/);
});

test('files that were chosen by hand: read, verified, not kept; nobody is asked', async () => {
  const { asked } = world({});
  const files = { 'weights/0.gz': new Blob([gz]), 'model_manifest.json': new Blob([JSON.stringify(manifest)]) };
  const store = new Store(new URL('file:///m/'), files);
  const m = await store.manifest();
  assert.equal(sha((await store.chunk(chunk, place)).bytes), chunk.raw_sha256);
  assert.deepEqual(
    [m.version, (await store.kept(m)).size, await store.keep('a', raw), asked.length],
    ['v', 0, false, 0],
  );
  assert.match(store.trouble, /chosen by hand/);
  for (const path of ['config.json', 'constructor']) {
    await assert.rejects(store.file({ ...chunk, path }), {
      name: 'FetchError',
      message: new RegExp(`^${path} is not in the folder`),
    });
  }
  files['weights/0.gz'] = new Blob([gz.slice(1)]);
  await assert.rejects(store.chunk(chunk, place), { name: 'FetchError' });
});

test(
  'the kernel: bits, sampling, limits',
  { skip: !process.env.SMOLLM_BUNDLE && 'SMOLLM_BUNDLE names no bundle' },
  async () => {
    const { compile, Kernel } = await load('kernel.js');
    const { Model } = await load('model.js');
    const base = new URL(`file://${process.env.SMOLLM_BUNDLE}/`);
    const m = readManifest(await readFile(new URL('model_manifest.json', base), 'utf8'));
    const config = readConfig(JSON.parse(await readFile(new URL('config.json', base), 'utf8')));
    const module = await compile(await readFile(new URL(m.engine.variants.find((v) => !v.threads).path, base)));
    await assert.rejects(compile(raw), {
      name: 'EngineError',
      message: /does not compile the kernel: use a newer one/,
    });
    const other = await WebAssembly.compile(
      new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 2, 7, 1, 1, 97, 1, 98, 0, 0]),
    );
    await assert.rejects(Kernel.open(other, { config, context: 8, threads: 1, weightBytes: 64 }), {
      name: 'EngineError',
    });
    const kernel = await Kernel.open(module, {
      config,
      context: pickContext(config),
      threads: 1,
      weightBytes: m.model.bytes,
    });
    for (const w of m.weights)
      await inflate(
        new Uint8Array(await readFile(new URL(w.path, base))),
        kernel.weights.subarray(w.offset, w.offset + w.bytes),
      );
    assert.equal(sha(kernel.weights), m.model.sha256);
    const head = readHead(kernel.weights);
    kernel.create(head.config, head.parts);
    const model = new Model(kernel, []);
    await model.gather();
    await model.selfTest(m.self_test);
    await assert.rejects(model.selfTest({ ...m.self_test, logits_sha256: digest }), /other logits/);
    await assert.rejects(
      model.selfTest({ ...m.self_test, greedy_ids: [m.self_test.greedy_ids[0] + 1] }),
      /other tokens/,
    );
    assert.match(kernel.variant, /^(relaxed|simd128)$/);
    for (const id of [config.vocab, -1, 1.5, 2 ** 32 + 5, NaN])
      await assert.rejects(model.logits([id]), { name: 'EngineError', message: /^token id .* is not in/ });
    await model.next([5, 6, 7], 0);
    await assert.rejects(model.next([5], 9), /the kernel refused a call/);
    assert.deepEqual(model.tokens, [5, 6, 7], 'no holes');
    await model.logits([5, 6, 7]);
    model.startSampling({ temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0n });
    const [likeliest, second] = [model.sample([]), ((model.missing = [model.sample([])]), model.sample([]))];
    assert.notEqual(likeliest, second, 'an id that no token has is not chosen');
    model.missing = [];
    model.startSampling({ temperature: 1e-310, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0n });
    await model.logits([5, 6, 7]);
    assert.equal(model.sample([]), likeliest, 'a tiny temperature leaves the likeliest');
    const scores = () => new Float32Array(kernel.memory.buffer, kernel.exports.sm_logits(kernel.model), config.vocab);
    for (const spoil of [
      (x) => {
        x[7] = NaN;
      },
      (x) => {
        x[config.vocab - 1] = Infinity;
      },
      (x) => x.fill(NaN),
      (x) => x.fill(-Infinity),
    ]) {
      for (const temperature of [0, 1]) {
        await model.logits([5, 6, 7]);
        model.startSampling({ temperature, topK: 5, topP: 0.9, minP: 0, repetitionPenalty: 1, seed: 0n });
        spoil(scores());
        assert.throws(() => model.sample([]), { name: 'NonFiniteError', message: /no token can be chosen/ });
      }
    }
    await model.logits([5, 6, 7]);
    scores().fill(-Infinity, 0, config.vocab - 1);
    assert.equal(model.sample([]), config.vocab - 1, '-infinity is a score that is never chosen');
    assert.equal(await model.prefill(Array(200).fill(5), 0, async () => false), false, 'cancelled between tiles');
    assert.equal(model.tokens.length, 64);
    // drafts
    const size = kernel.memory.buffer.byteLength;
    const text = Array.from({ length: 40 }, (_, i) => (i * i) % config.vocab);
    const rows = [];
    for (const [i, id] of text.entries()) {
      model.decode(id, i);
      rows.push(kernel.logits());
    }
    assert.equal(kernel.memory.buffer.byteLength, size, 'who never drafts pays nothing');
    const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0n };
    const choose = (how, scores, history) => {
      model.startSampling(how);
      new Float32Array(kernel.memory.buffer, kernel.exports.sm_logits(kernel.model), config.vocab).set(scores);
      return model.sample(history);
    };
    for (const [first, n] of [
      [20, 8],
      [3, 2],
      [32, 8],
      [0, 5],
    ]) {
      assert.ok(model.verify(text.slice(first, first + n), first));
      assert.deepEqual(model.tokens, text.slice(0, first + n));
      for (let row = 0; row < n; row++) {
        for (const [how, history] of [
          [greedy, []],
          [{ ...greedy, temperature: 1, topP: 0.9, repetitionPenalty: 1.3, seed: 7n }, text],
        ]) {
          model.startSampling(how);
          const id = model.sample(history, row);
          assert.equal(id, choose(how, rows[first + row], history), `${first} + ${row} of ${n}`);
          model.startSampling(how);
          model.missing = [id];
          assert.notEqual(model.sample([], row), id, 'an id that no token has');
          model.missing = [];
          assert.ok(model.verify(text.slice(first, first + n), first));
        }
      }
      for (let i = first + n; i < text.length; i++) model.decode(text[i], i);
      assert.deepEqual(kernel.logits(), rows.at(-1), 'keys and values as token by token');
    }
    assert.ok(kernel.memory.buffer.byteLength >= kernel.at.end + 4 * (1 + MOST) * config.vocab);
    const seen = model.look(5, 40, { layers: [0, config.layers], top: 2 });
    assert.equal(model.sample([]), seen.ids[2], 'the lens where the drafts were');
    assert.ok(model.verify([5, 6], 40));
    assert.throws(() => model.verify([5, config.vocab], 40), /^EngineError: token id .* is not in/);
    // nothing more: an answer goes on without drafts, a lens says what to do
    const tight = await Kernel.open(module, { config, context: 64, threads: 1, weightBytes: m.model.bytes });
    tight.weights.set(kernel.weights);
    tight.create(head.config, head.parts);
    tight.at.end = tight.memory.buffer.byteLength;
    tight.memory.grow = () => {
      throw new RangeError('no');
    };
    const small = new Model(tight, []);
    small.decode(5, 0);
    assert.deepEqual([small.verify([6, 7], 1), small.tokens], [false, [5]]);
    assert.throws(() => small.look(6, 1, { layers: [0], top: 1 }), /gives no \d+ MB of memory for what happens inside/);
    small.close();
    model.close();
    await assert.rejects(
      Kernel.open(module, { config: { ...config, hidden: 65 }, context: 8, threads: 1, weightBytes: 64 }),
      { name: 'EngineError' },
    );
    await assert.rejects(
      Kernel.open(module, { config, context: 256, threads: 1, weightBytes: 2 ** 33 }),
      /gives no \d+ MB/,
    );
  },
);
