/**
 * Workers whose scripts fail: one retry, then an error that names the file, and where there is a way without it, an
 * answer.
 */
import { check, equal, fails, ok } from './check.js';
import { load, shared, works } from './models.js';

const FILES = ['worker.js', 'loader.js', 'load.js', 'vendor/jinja.js']; // the last two are imported by the first
const WRONG = {
  503: /the server said 503/,
  404: /no such file \(404\): copy the whole bundle/,
  html: /sent a web page in its place/,
  text: /the server calls it text\/plain/,
};

const site = (fault, file) => `${fault}-${file.replace('/', '_')}`;
const name = (file) => file.replaceAll('.', '\\.');

/**
 * A load, its error or what it says of itself.
 * @param {string} fault
 * @param {string} file
 */
async function outcome(fault, file) {
  const model = await load(site(fault, file), { threads: 2 }, true);
  try {
    await works(model);
    return model.info;
  } finally {
    model.dispose();
  }
}

export async function run() {
  for (const file of [...FILES, 'compute.js']) {
    await check(`${file} fails once`, async () => {
      const info = await outcome('503-once', file);
      equal(info.threads, shared ? 2 : 1, 'threads');
    });
  }
  for (const file of FILES) {
    await check(`${file} cannot be had`, () =>
      Promise.all(
        Object.entries(WRONG).map(async ([fault, why]) => {
          await fails(outcome(fault, file), 'ScriptError', new RegExp(`^${name(file)}: .*${why.source}`));
        }),
      ),
    );
  }
  await check('compute.js cannot be had', () =>
    Promise.all(
      Object.entries(WRONG).map(async ([fault, why]) => {
        const info = await outcome(fault, 'compute.js');
        ok(!shared || new RegExp(`thread 1 did not start: compute\\.js: .*${why.source}`).test(info.why), info.why);
        equal([info.threads, info.notes.some((n) => n.includes('compute.js'))], [1, shared], 'threads, a note');
      }),
    ),
  );
  await check('scripts that never come', async () => {
    const begin = performance.now();
    await Promise.all([
      // not too many at once: a browser opens six connections to a host
      fails(outcome('stall', 'worker.js'), 'ScriptError', /^worker\.js: no answer within 4 s: check the server/),
      outcome('stall-once', 'worker.js'),
    ]);
    await Promise.all([
      fails(outcome('stall', 'load.js'), 'ScriptError', /^load\.js: no answer within 4 s/),
      outcome('stall', 'compute.js').then((info) => equal(info.threads, 1, 'threads')),
    ]);
    return `all of it took ${((performance.now() - begin) / 1000).toFixed(1)} s`;
  });
}
