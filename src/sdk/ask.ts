/** One verb and its answer, typed by the table of verbs. */
import { IpcError } from "../base/errors.ts";
import type { Response } from "../protocol/responses.ts";
import type { AnswerOf, FieldsOf, Tag } from "../protocol/verbs.ts";

/** What sends a request to the daemon: a connection, or what makes one anew. */
export type Asker = { request(message: unknown): Promise<Response> };

type Said<A> = A extends { Success: infer S } ? S : never;
type Told<A> = A extends { Data: { data: infer D } } ? D : never;

/** The contents of a `Success`. The daemon belongs to our user: its shape is trusted. */
export async function ask<T extends Tag>(on: Asker, tag: T, fields: FieldsOf<T>): Promise<Said<AnswerOf<T>>> {
  const response = await on.request(messageOf(tag, fields));
  if ("Success" in response) return response.Success as Said<AnswerOf<T>>;
  throw unexpected(response);
}

/**
 * The contents of a `Data`, likewise; a daemon of an earlier protocol may omit what the readers of status.ts fill in.
 */
export async function query<T extends Tag>(on: Asker, tag: T, fields: FieldsOf<T>): Promise<Told<AnswerOf<T>>> {
  const response = await on.request(messageOf(tag, fields));
  if ("Data" in response) return response.Data.data as Told<AnswerOf<T>>;
  throw unexpected(response);
}

function messageOf(tag: Tag, fields: unknown): unknown {
  return fields === null ? tag : { [tag]: fields };
}

export function unexpected(answer: unknown): IpcError {
  return new IpcError("FAILED", `unexpected answer ${JSON.stringify(answer).slice(0, 80)}`);
}
