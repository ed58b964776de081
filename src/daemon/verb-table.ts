/** What carries out verbs: a function for each of them. */
import type { AnswerOf, RequestOf, Tag } from "../protocol/verbs.ts";

/** @typeParam Caller what of whoever asks some of them need to know */
export type VerbTable<Tags extends Tag, Deps, Caller = unknown> = {
  readonly [T in Tags]: (request: RequestOf<T>, deps: Deps, caller: Caller) => AnswerOf<T> | Promise<AnswerOf<T>>;
};
