/** What the runtime uses of @huggingface/jinja. */
export class Template {
  constructor(template: string);
  render(variables: Record<string, unknown>): string;
}
