/** What both sides of a session share. */
import { IpcError } from "../base/errors.ts";
import { PythonError } from "../plane/python-error.ts";
import { BrokenChannel } from "../plane/ring.ts";

/** A function that the other side may call, with whatever arguments it sends. */
export type Lent = (...args: never[]) => unknown;

/** What the server says about itself when a session opens. */
export type Hello = {
  readonly pid: number;
  readonly python: string;
  readonly implementation: string;
  readonly exposed: string[];
  /** Why it cannot serve anybody; then it says nothing else. */
  readonly error?: string;
};

/** An error as the other side reports it. */
export function errorOf(value: unknown): Error {
  return value instanceof IpcError ? value : (PythonError.from(value) ?? new BrokenChannel("a malformed error"));
}
