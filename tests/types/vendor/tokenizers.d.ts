/** What the runtime uses of @huggingface/tokenizers. */
export class Tokenizer {
  constructor(tokenizer: object, config: object);
  model: any; // of a class that the package does not export
  encode(text: string, options?: { add_special_tokens?: boolean }): { ids: number[] };
  id_to_token(id: number): string | undefined;
}
