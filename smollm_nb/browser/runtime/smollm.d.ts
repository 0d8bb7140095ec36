export class WasmModelLoader {
    /**
     * @param {(file: string) => string | URL} [locate] where the script of a worker is ('./worker.js', './loader.js' or
     *   './compute.js'), for a page that cannot start those beside this one
     */
    constructor(locate?: (file: string) => string | URL);
    /**
     * What a load would do: bytes to fetch, bytes that are here already, memory, threads and why.
     * @param {string | URL} url of the bundle's folder
     * @param {LoadOptions} [options]
     * @returns {Promise<Plan>}
     */
    plan(url: string | URL, options?: LoadOptions): Promise<Plan>;
    /**
     * @param {string | URL} url of the bundle's folder
     * @param {LoadOptions} [options]
     * @returns {Promise<WasmModel>}
     */
    load_quantized_model(url: string | URL, options?: LoadOptions): Promise<WasmModel>;
    #private;
}
/** An answer while it grows: iterate over it for tokens; `await answer.result` is the record of all of it. */
export class Generation {
    /**
     * @param {any} link to the worker
     * @param {Prompt} prompt
     * @param {GenerateOptions} options
     */
    constructor(link: any, prompt: Prompt, { signal, onToken, ...options }: GenerateOptions);
    /** Which answer it is: no two of a model have the same. @type {number} */
    id: number;
    /** @type {Promise<Result>} */
    result: Promise<Result>;
    /** End it with the token that is on its way; the next call waits for that. */
    cancel(): void;
    /** End it, and deliver no more tokens. */
    drop(): void;
    /** @returns {AsyncGenerator<Token, Result, void>} */
    [Symbol.asyncIterator](): AsyncGenerator<Token, Result, void>;
    #private;
}
export class WasmModel {
    /**
     * @param {any} link to the worker
     * @param {any} info
     */
    constructor(link: any, info: any);
    /** @type {ModelInfo} */
    info: ModelInfo;
    /** Of the last answer. @type {Timings} */
    timings: Timings;
    /** When the browser has kept the model, or why it did not. @type {Promise<Kept>} */
    kept: Promise<Kept>;
    /** @returns {boolean} until `dispose` */
    is_ready(): boolean;
    /**
     * Continue a text, answer a conversation, or go on from ids. Answers come one after the other: one that is asked for
     * while another grows begins when that is done.
     * @param {Prompt} prompt
     * @param {GenerateOptions} [options]
     * @returns {Generation}
     */
    generate(prompt: Prompt, options?: GenerateOptions): Generation;
    /**
     * The ids of a text or a conversation.
     * @param {string | Message[]} prompt
     * @param {{special?: boolean}} [options]
     * @returns {Promise<number[]>}
     */
    encode(prompt: string | Message[], options?: {
        special?: boolean;
    }): Promise<number[]>;
    /**
     * The likeliest id after some ids, which are read from a position of the cache on: no text, no sampling.
     * @param {number[]} ids
     * @param {number} [pos]
     * @returns {Promise<number>}
     */
    next(ids: number[], pos?: number): Promise<number>;
    /**
     * Scores after the last of the ids, read from an empty cache.
     * @param {number[]} ids
     * @returns {Promise<Float32Array>} (vocab,)
     */
    logits(ids: number[]): Promise<Float32Array>;
    /**
     * Forget all tokens: answers that still grow are cancelled, and deliver no more tokens.
     * @returns {Promise<void>}
     */
    reset(): Promise<void>;
    /** Stop everything and give the memory back. */
    dispose(): void;
    #private;
}
/**
 * A turn of a conversation.
 */
export type Message = {
    role: "system" | "user" | "assistant";
    content: string;
};
/**
 * A text to continue, a conversation to answer, or token ids.
 */
export type Prompt = string | Message[] | number[];
export type SamplingOptions = {
    /**
     * The longest answer, in tokens; default: 128.
     */
    maxTokens?: number;
    /**
     * 0..100; 0, the default, always takes the likeliest token.
     */
    temperature?: number;
    /**
     * 0, the default, is off.
     */
    topK?: number;
    /**
     * 0..1; 1, the default, is off.
     */
    topP?: number;
    /**
     * 0..1; 0, the default, is off.
     */
    minP?: number;
    /**
     * 0.01..100; 1, the default, is off.
     */
    repetitionPenalty?: number;
    /**
     * 0..2^64-1; the same seed gives the same text, here and in Python.
     */
    seed?: number | bigint | string;
    /**
     * Texts at which the answer ends; they may hold special tokens.
     */
    stop?: string | string[];
    /**
     * What to do where prompt and answer do not fit the context.
     */
    overflow?: "error" | "stop" | "drop_oldest";
    /**
     * Read special tokens that stand in a text as tokens.
     */
    special?: boolean;
    /**
     * Show what each layer would have said in a token's place; slows the answer.
     */
    lens?: boolean | LensOptions;
    /**
     * Check drafts from the text so far where that is faster; the answer is the same. Default:
     * true; a lens turns it off.
     */
    lookup?: boolean;
};
export type LensOptions = {
    /**
     * Rising, of 0 (what enters the first layer) to `info.layers`; default: all of them.
     */
    layers?: number[];
    /**
     * Likeliest tokens of each, 1..64; default: 5.
     */
    top?: number;
};
/**
 * What the model would have said in a token's place if it ended after a layer: the logit lens.
 */
export type Lens = {
    /**
     * The token itself, alone.
     */
    text: string;
    /**
     * In rising order.
     */
    layers: LensLayer[];
};
export type LensLayer = {
    /**
     * Layers that were run.
     */
    layer: number;
    /**
     * The likeliest first.
     */
    ids: number[];
    /**
     * Each token alone: U+FFFD where it is a part of a character.
     */
    texts: string[];
    /**
     * Of all tokens, before temperature and the like.
     */
    probabilities: number[];
};
export type CallOptions = {
    /**
     * Cancels the answer.
     */
    signal?: AbortSignal;
    /**
     * Called with each token.
     */
    onToken?: (token: Token) => void;
};
export type GenerateOptions = SamplingOptions & CallOptions;
/**
 * One token of an answer.
 */
export type Token = {
    /**
     * 0 for the first.
     */
    index: number;
    id: number;
    /**
     * What became certain with it; may be empty.
     */
    text: string;
    /**
     * Seconds since the call.
     */
    elapsed_s: number;
    /**
     * Where the option is on.
     */
    lens?: Lens;
};
/**
 * A whole answer.
 */
export type Result = {
    /**
     * Without special tokens and stop string.
     */
    text: string;
    /**
     * Every token that was chosen, a closing one included.
     */
    ids: number[];
    prompt_ids: number[];
    finish_reason: "eos" | "stop" | "length" | "cancelled";
    /**
     * Whether the context was too short.
     */
    truncated: boolean;
    timings: Timings;
};
/**
 * What an answer cost, named as in Python; seconds and bytes.
 */
export type Timings = {
    load_s: number;
    backend: string;
    /**
     * Of the kernel.
     */
    variant: string;
    threads: number;
    prompt_tokens?: number;
    /**
     * Tokens of the prompt that were known already.
     */
    cached_tokens?: number;
    new_tokens?: number;
    /**
     * Over the weights, the prompt's counted as one; drafts make them fewer than the tokens.
     */
    passes?: number;
    prefill_s?: number;
    /**
     * Until the first token.
     */
    ttft_s?: number;
    /**
     * Between tokens.
     */
    itl_s?: number[];
    tokens_per_s?: number;
    prefill_tokens_per_s?: number;
    tokens_per_pass?: number;
    bytes_per_token?: number;
    gb_per_s?: number;
    memory_bytes?: number;
    peak_rss_bytes?: number | null;
    file_sha256?: string;
    machine?: {
        browser: string;
        cores: number;
    };
};
/**
 * What a load does.
 */
export type Plan = {
    /**
     * Of the model.
     */
    name: string;
    /**
     * Of the bundle.
     */
    version: string;
    parameters: number;
    /**
     * Of the kernel.
     */
    variant: string;
    /**
     * That compute.
     */
    threads: number;
    /**
     * Why that variant on so many threads.
     */
    why: string;
    /**
     * Bytes of the files that it takes.
     */
    total: number;
    /**
     * Bytes of these that the browser has kept.
     */
    cached: number;
    /**
     * Bytes that the page will take at most.
     */
    memory: number;
    /**
     * Why the browser keeps nothing; "" where it does.
     */
    trouble: string;
    /**
     * What a reader should know, a sentence each.
     */
    notes: string[];
    /**
     * Positions of the KV cache.
     */
    context?: number;
    /**
     * Lengths to choose from, and the memory that each takes.
     */
    contexts?: {
        tokens: number;
        memory: number;
    }[];
};
export type Progress = {
    stage: "plan" | "download" | "start" | "ready";
    /**
     * Bytes.
     */
    loaded: number;
    /**
     * Bytes.
     */
    total: number;
    /**
     * Bytes of these that came from the network.
     */
    fetched?: number;
    /**
     * Comes again where something is missing that seemed to be kept, before it is fetched.
     */
    plan?: Plan;
};
export type LoadOptions = {
    onProgress?: (progress: Progress) => void;
    /**
     * Cancels the load.
     */
    signal?: AbortSignal;
    /**
     * That compute; default: as many as are worth it.
     */
    threads?: number;
    /**
     * Positions of the KV cache.
     */
    context?: number;
    /**
     * The bundle's, by path, where no server has them.
     */
    files?: Record<string, Blob>;
};
/**
 * Facts about a loaded model.
 */
export type ModelInfo = {
    name: string;
    /**
     * Of the bundle.
     */
    version: string;
    parameters: number;
    quantization: any;
    file_sha256: string;
    /**
     * Of the kernel.
     */
    variant: string;
    /**
     * That compute.
     */
    threads: number;
    /**
     * Why that variant on so many threads.
     */
    why: string;
    /**
     * Whether the page is cross-origin isolated.
     */
    isolated: boolean;
    /**
     * Positions of the KV cache.
     */
    context: number;
    /**
     * Tokens.
     */
    vocab: number;
    layers: number;
    /**
     * Bytes.
     */
    memory: {
        total: number;
        weights: number;
        arena: number;
        kv: number;
    };
    bytes_per_token: number;
    load_s: number;
    fetched_bytes: number;
    total_bytes: number;
    /**
     * Why the browser keeps nothing; "" where it does.
     */
    trouble: string;
    /**
     * What a reader should know, a sentence each.
     */
    notes: string[];
};
/**
 * Whether the browser has kept the model, or why not.
 */
export type Kept = {
    kept: boolean;
    trouble: string;
};
