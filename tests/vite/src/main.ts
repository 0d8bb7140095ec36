// A page that uses the runtime as any program uses a library: typed, bundled, the bundle's data in public/model/.
import {
  WasmModelLoader,
  type GenerateOptions,
  type Message,
  type Plan,
  type Result,
  type Token,
} from './smollm/smollm.js';

const out = document.querySelector<HTMLParagraphElement>('#answer')!;
const report = (record: object) => fetch('/report', { method: 'POST', body: JSON.stringify(record) });

async function main(): Promise<object> {
  const loader = new WasmModelLoader();
  const plan: Plan = await loader.plan('/model/');
  let largest = 0;
  const model = await loader.load_quantized_model('/model/', {
    onProgress: ({ loaded }) => {
      largest = Math.max(largest, loaded);
    },
  });
  const pieces: string[] = [];
  const options: GenerateOptions = { maxTokens: 12, temperature: 0, onToken: (t: Token) => pieces.push(t.text) };
  const answer = model.generate('Hello there', options);
  for await (const { text } of answer) out.textContent += text;
  const { ids, finish_reason }: Result = await answer.result;
  const messages: Message[] = [{ role: 'user', content: 'Hello' }];
  const chat = await model.generate(messages, { maxTokens: 2 }).result;
  // @ts-expect-error: the types know the options
  const wrong = await model.generate('a', { temprature: 1 }).result.catch((e: Error) => e.name);
  const { threads, variant } = model.info;
  model.dispose();
  return {
    text: out.textContent,
    pieces,
    ids,
    finish_reason,
    chat: chat.ids.length,
    wrong,
    threads,
    variant,
    done: largest === plan.total,
  };
}

main().then(report, (error: Error) => report({ error: `${error.name}: ${error.message}` }));
