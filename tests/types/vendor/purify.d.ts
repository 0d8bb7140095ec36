/** What the runtime uses of dompurify. */
declare const purify: {
  setConfig(config: object): void;
  sanitize(html: string): DocumentFragment;
};
export default purify;
