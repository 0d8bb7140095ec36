/** Pages that may keep nothing: they answer all the same, and say so. */
import { check, equal, ok } from './check.js';
import { expected, said, tab } from './models.js';

const NOTHING = /keep nothing|keeps nothing/;

/** @param {any} r as tab.js tells it */
function answered(r) {
  equal([r.sha256, r.ids], [expected.greedy[0].logits_sha256, expected.greedy[0].ids.slice(0, 8)], 'the answer');
}

/** @param {any} r */
function keptNothing(r) {
  answered(r);
  equal([r.fetched, r.kept.kept], [r.total, false], 'fetched, kept');
  for (const [what, text] of [
    ['plan', r.plan.notes.join()],
    ['info', r.notes.join()],
    ['kept', r.kept.trouble],
  ])
    ok(NOTHING.test(text), `${what}: ${text}`);
  return r.notes.join('; ');
}

/** The same host by another name is another site. */
const OTHER_SITE = location.origin.replace('127.0.0.1', 'localhost');

export async function run(kinds) {
  if (kinds.includes('simulated')) {
    for (const [name, site] of [
      ['throw on mere access', 'blocked'],
      ['refuse to open', 'refused'],
    ]) {
      await check(`caches that ${name}`, async () => keptNothing(await tab({ site, scripts: `/${site}`, plan: '' })));
    }
    await check('caches that refuse what is put', async () => {
      const r = await tab({ site: 'unputtable', scripts: '/unputtable' });
      answered(r);
      equal(r.kept.kept, false, 'kept');
      ok(NOTHING.test(r.kept.trouble), r.kept.trouble);
    });
  }
  if (kinds.includes('blocked')) {
    await check('all site data are blocked', async () => {
      let blocked = '';
      try {
        sessionStorage.getItem('a');
      } catch (e) {
        blocked = e.name;
      }
      equal(blocked, 'SecurityError', 'this browser blocks nothing: sessionStorage');
      const r = await tab({ site: 'bundle', plan: '' });
      equal(r.threads, 1, 'threads');
      return keptNothing(r);
    });
    await check('a frame in another site, site data blocked', async () =>
      keptNothing(await tab({ site: 'bundle', plan: '', policy: 'open' }, OTHER_SITE)),
    );
  }
  if (kinds.includes('frames')) {
    await check('a frame in another site', async () => {
      const r = await tab({ site: 'bundle', plan: '', policy: 'open' }, OTHER_SITE);
      answered(r);
      equal(r.threads, 1, 'threads');
      return `kept: ${JSON.stringify(r.kept)}`;
    });
    await check('a frame that is nobody', async () => {
      // no origin: no storage, no worker from anywhere but itself
      const f = Object.assign(document.createElement('iframe'), {
        src: '/tests/tab.html?site=nobody&scripts=/nobody&policy=open&plan',
        sandbox: 'allow-scripts',
      });
      const r = await said(document.body.appendChild(f));
      answered(r);
      return `kept: ${JSON.stringify(r.kept)}`;
    });
  }
  if (kinds.includes('private')) {
    await check('a private window', async () => {
      const first = await tab({ site: 'bundle', plan: '' });
      answered(first);
      // WebKit forgets what a private frame has kept when it goes
      const again = await tab({ site: 'bundle', plan: '' });
      answered(again);
      ok(first.kept.kept || NOTHING.test(first.kept.trouble), first.kept.trouble);
      return `kept: ${JSON.stringify(first.kept)}, ${again.fetched} bytes fetched again`;
    });
  }
}
