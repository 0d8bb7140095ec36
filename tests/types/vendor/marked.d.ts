/** What the runtime uses of marked. */
export interface Token {
  type: string;
  raw: string;
  text?: string;
}
export class Marked {
  constructor(options: object);
  lexer(source: string): Token[];
  parser(tokens: Token[]): string;
}
