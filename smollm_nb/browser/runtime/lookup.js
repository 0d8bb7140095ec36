/**
 * Drafts from the text so far, as smollm_nb/inference/lookup.py has it: where an answer repeats what stands before,
 * several of its tokens are checked in one pass. One thing differs. WebAssembly computes more slowly than it reads
 * weights, so that each draft takes about half of a token's time; that is a constant here, as a browser's clock is
 * coarse, and whatever else the machine does would end the drafts.
 */
export const MOST = 7; // drafts in a pass: with the last token eight, for which the kernel keeps all sums in registers
const LENGTHS = [4, 3, 2]; // tokens of a match, the longest first
const [WEIGHT, FIRST] = [0.2, 0.65]; // of a new reading in a running mean; p before anything is known
const COST = 0.5; // time of a draft ÷ of a single token: 0.45 to 0.57 in both builds, for one draft to seven

/**
 * @param {number} p probability that a draft is right
 * @param {number} k drafts
 * @returns {number} tokens that a pass gives, on average
 */
function tokensOfPass(p, k) {
  let sum = 0;
  for (let i = 0; i <= k; i++) sum += p ** i;
  return sum;
}

/** Drafts for one answer, from its own text. */
export class Lookup {
  /** @type {number[]} */
  #ids = [];
  /** @type {Map<string, number>} n-gram → where the tokens behind it begin */
  #where = new Map();
  /** @type {Record<number, number>} match length → probability that a draft is right */
  #right = Object.fromEntries(LENGTHS.map((n) => [n, FIRST]));
  #used = 0; // length of the last match; 0 for none
  #next = -1; // the id behind it

  /** @param {number[]} ids the text */
  constructor(ids) {
    this.extend(ids);
  }

  /** The text grows. @param {number[]} ids */
  extend(ids) {
    for (const id of ids) {
      const end = this.#ids.length;
      // the newest n-gram enters once something stands behind it
      for (const n of LENGTHS) if (end >= n) this.#where.set(this.#last(n), end);
      this.#ids.push(id);
    }
  }

  #last(n) {
    return this.#ids.slice(-n).join();
  }

  /**
   * What may come next, as many tokens as pay.
   * @param {number} most tokens there is room for
   * @returns {number[]}
   */
  draft(most) {
    this.#used = 0;
    for (const n of LENGTHS) {
      const at = this.#where.get(this.#last(n));
      if (at === undefined) continue;
      this.#used = n;
      this.#next = this.#ids[at];
      return this.#ids.slice(at, at + this.#best(n, Math.min(most, MOST, this.#ids.length - at)));
    }
    return [];
  }

  /** How many drafts give the most tokens a second. @param {number} n @param {number} most */
  #best(n, most) {
    const p = this.#right[n];
    const rates = Array.from({ length: most + 1 }, (_, k) => tokensOfPass(p, k) / (1 + COST * k));
    return rates.indexOf(Math.max(...rates));
  }

  /**
   * What became of a pass, once the text has grown by what it gave.
   * @param {number} drafted tokens
   * @param {number} right of them, one after the other
   */
  note(drafted, right) {
    const n = this.#used;
    if (!n) return;
    const [tried, good] = drafted ? [drafted, right] : [1, Number(this.#ids.at(-1) === this.#next)];
    // behind a wrong draft nothing is known
    for (let i = 0; i < Math.min(good + 1, tried); i++) this.#right[n] += (Number(i < good) - this.#right[n]) * WEIGHT;
  }
}
