// Runs a build of the kernel on shared memory, one worker a thread: node logits.mjs JOB, a JSON file that
// test_kernel_node.py writes.
// Prints the SHA-256 of a prompt's logits, read at once and token by token, and that of its residual stream.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

const PAGE = 65536;
const STACK = 65536;
const align = (n) => Math.ceil(n / 64) * 64;

async function start(module, memory, stack) {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  if (stack) exports.__stack_pointer.value = stack;
  return exports;
}

// Addresses: the workers' stacks, then each thing behind the other
function place(base, threads, sizes) {
  let end = align(base) + STACK * (threads - 1);
  const at = Object.fromEntries(Object.entries(sizes).map(([name, n]) => [name, (end += align(n)) - align(n)]));
  return { at, end };
}

function check(kernel, memory, code) {
  if (code >= 0) return code;
  const text = new Uint8Array(memory.buffer).slice(kernel.sm_error(code));
  throw new Error(Buffer.from(text.slice(0, text.indexOf(0))).toString());
}

async function startWorkers(module, memory, kernel, model, job, base) {
  const workers = [];
  for (let index = 1; index < job.threads; index++) {
    const w = new Worker(new URL(import.meta.url), {
      workerData: { module, memory, model, index, stack: align(base) + STACK * index },
    });
    w.on('error', (e) => {
      console.error(e);
      process.exit(1);
    });
    workers.push(w);
  }
  while (kernel.sm_workers(model) < job.threads - 1) await new Promise((done) => setTimeout(done, 1));
  return workers;
}

async function arenaBytes(module, job, shape) {
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 64, shared: true });
  const kernel = await start(module, memory);
  const at = align(kernel.__heap_base.value);
  new Uint8Array(memory.buffer).set(shape, at);
  return check(kernel, memory, kernel.sm_arena_bytes(at));
}

async function main(job) {
  const module = await WebAssembly.compile(readFileSync(job.wasm));
  const shape = Buffer.from(job.shape, 'base64');
  const parts = Buffer.from(job.parts, 'base64');
  const weights = readFileSync(job.file);
  const { ids, vocab } = job;
  const arena = await arenaBytes(module, job, shape);
  const base = await heapBase(module);
  const each = 4 * vocab;
  const { at, end } = place(base, job.threads, {
    weights: weights.length,
    shape: 64,
    parts: parts.length,
    model: 4,
    ids: 4 * ids.length,
    logits: each * ids.length,
    residual: job.residual,
    arena,
  });
  const pages = Math.ceil(end / PAGE);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const kernel = await start(module, memory);
  const bytes = new Uint8Array(memory.buffer);
  for (const [name, data] of Object.entries({ weights, shape, parts })) bytes.set(data, at[name]);
  new Int32Array(memory.buffer, at.ids, ids.length).set(ids);
  const run = (code) => check(kernel, memory, code);
  run(kernel.sm_self_test());
  run(kernel.sm_create(at.shape, at.parts, job.count, at.weights, weights.length, at.arena, arena, at.model));
  const model = new Int32Array(memory.buffer, at.model, 1)[0];
  const workers = await startWorkers(module, memory, kernel, model, job, base);
  const hash = (from = at.logits, size = each * ids.length) =>
    createHash('sha256')
      .update(bytes.slice(from, from + size))
      .digest('hex');
  run(kernel.sm_prefill(model, at.ids, ids.length, 0, 2, at.logits));
  const prefill = hash();
  bytes.fill(0, at.logits, at.logits + each * ids.length);
  run(kernel.sm_forget(model, 0));
  ids.forEach((id, i) => run(kernel.sm_decode(model, id, i, at.logits + each * i)));
  const decode = hash();
  const n = ids.length;
  run(kernel.sm_trace(model, at.ids, n, 0, 0, 0, at.residual, job.residual / 4));
  const residual = hash(at.residual, job.residual);
  const ended = workers.map((w) => new Promise((done) => w.on('exit', done)));
  run(kernel.sm_close(model));
  const codes = await Promise.all(ended);
  console.log(JSON.stringify({ prefill, decode, residual, codes }));
}

async function heapBase(module) {
  return (await start(module, new WebAssembly.Memory({ initial: 64, maximum: 64, shared: true }))).__heap_base.value;
}

if (isMainThread) await main(JSON.parse(readFileSync(process.argv[2], 'utf8')));
else {
  const { module, memory, model, index, stack } = workerData;
  const code = (await start(module, memory, stack)).sm_worker(model, index);
  if (code) throw new Error(`worker ${index}: code ${code}`);
}
