/** Runs the cases of test/calls/cases.json as a client in TypeScript: test/calls/peer.py is the one in Python. */
import { isDeepStrictEqual } from "node:util";
import { IpcError } from "../../src/base/errors.ts";
import type { CallClient } from "../../src/calls/client.ts";
import type { Lent } from "../../src/calls/session.ts";
import { Stream } from "../../src/calls/streams.ts";
import { decode } from "../../src/plane/cbor-decode.ts";
import { Encoder } from "../../src/plane/cbor-encode.ts";
import { CodecError } from "../../src/plane/values.ts";
import vectors from "../vectors/cbor.json" with { type: "json" };
import cases from "./cases.json" with { type: "json" };

type Raised = { message?: string; text?: string; cause?: string; where?: string; code?: string };
export type Case = {
  name: string;
  call?: string;
  stream?: string;
  eval?: string;
  until?: string;
  vectors?: string;
  args?: unknown[];
  kwargs?: Record<string, unknown>;
  each?: number;
  take?: number;
  timeout?: number;
  slowly?: boolean;
  cancel?: boolean;
  bind?: string;
  unbind?: string;
  isRefusedByJson?: boolean;
  gives?: unknown;
  raises?: Raised;
};

export const CASES = cases as Case[];

/** An object with a key that begins with `$` stands for what is too long for the table, or for what JSON has not. */
function revive(value: unknown, at = 0): unknown {
  if (Array.isArray(value)) return value.map((one) => revive(one, at));
  if (value === null || typeof value !== "object") return value;
  const [[key, what] = ["", undefined]] = Object.entries(value);
  switch (key) {
    case "$deep": {
      let deep: unknown = 1;
      for (let level = 0; level < (what as number); level++) deep = [deep];
      return deep;
    }
    case "$long":
      return "x".repeat(what as number);
    case "$at":
      return at + (what as number);
    case "$count":
      return Array.from({ length: what as number }, (_, index) => index);
    case "$bytes":
      return new Uint8Array(Buffer.from(what as string, "hex"));
    case "$stream":
      return items(what as number);
    case "$failing":
      return items(what as number, true);
    default:
      return value;
  }
}

async function* items(end: number, isFailing = false): AsyncGenerator<number> {
  for (let at = 0; at < end; at++) yield await Promise.resolve(at);
  if (isFailing) throw new TypeError("of ours");
}

export class Runner {
  readonly #client: CallClient;
  readonly #isJson: boolean;
  readonly #bound: Map<string, Lent>;

  /** @param bound what the client was made with */
  constructor(client: CallClient, bound: Map<string, Lent>, isJson: boolean) {
    this.#client = client;
    this.#bound = bound;
    this.#isJson = isJson;
  }

  readonly #lent: Readonly<Record<string, Lent>> = {
    twice: (value: number) => value * 2,
    twice_later: async (value: number) => await Promise.resolve(value * 2),
    failing: () => {
      throw new TypeError("failed as asked");
    },
    refusing: (value: number) => {
      throw new IpcError("LIMIT", `no more than ${value}`);
    },
    nested: (value: number) => this.#client.call("add", [value, 1]),
  };

  /** @throws Error saying what was otherwise than in the table */
  async run(one: Case): Promise<void> {
    if (one.bind !== undefined) {
      this.#bound.set(one.bind, this.#lent[one.bind]!);
      this.#client.bind(one.bind);
    }
    if (one.unbind !== undefined) {
      this.#bound.delete(one.unbind);
      this.#client.unbind(one.unbind);
    }
    if (one.vectors !== undefined) return this.#echoVectors(one.vectors);
    if (one.until !== undefined) return this.#waitFor(one.until, one.gives);
    const times = Array.from({ length: one.each ?? 1 }, (_, at) => this.#once(one, at));
    await Promise.all(times);
  }

  async #once(one: Case, at: number): Promise<void> {
    const got: unknown[] = [];
    let value: unknown;
    try {
      value = await this.#ask(one, at, got);
    } catch (error) {
      if (one.isRefusedByJson === true && this.#isJson) {
        const isNamed = error instanceof CodecError || /JSON has no/.test((error as Error).message);
        if (!isNamed) throw error;
        return;
      }
      if (one.raises === undefined) throw error;
      return check(one.raises, error as Error, one.gives, got);
    }
    if (one.raises !== undefined) throw new Error(`gave ${JSON.stringify(value)} instead of an error`);
    if (one.isRefusedByJson === true && this.#isJson) throw new Error("was not refused");
    requireEqual(value, revive(one.gives, at));
  }

  async #ask(one: Case, at: number, got: unknown[]): Promise<unknown> {
    const timeout = one.timeout === undefined ? undefined : one.timeout * 1000;
    const abort = new AbortController();
    const options = { timeout, ...(one.cancel === true && { signal: abort.signal }) };
    if (one.eval !== undefined) return this.#client.eval(one.eval, options);
    const args = (one.args ?? []).map((arg) => revive(arg, at));
    const name = one.call ?? one.stream!;
    const begun: unknown = one.cancel === true && (await this.#client.call("begun", []));
    const asked = this.#client.call(name, args, one.kwargs ?? null, options);
    if (one.cancel === true) {
      asked.catch(() => undefined);
      while ((await this.#client.call("begun", [])) === begun);
      abort.abort();
    }
    const answer = await asked;
    if (one.stream === undefined) return answer;
    if (!(answer instanceof Stream)) throw new Error("is not a stream");
    for await (const item of answer) {
      if (one.slowly !== true) got.push(item);
      if (got.length === one.take) break;
    }
    return got;
  }

  async #waitFor(name: string, value: unknown): Promise<void> {
    for (;;) if ((await this.#client.call(name, [])) === value) return;
  }

  async #echoVectors(name: string): Promise<void> {
    for (const { bytes } of vectors) {
      const value = decode(Buffer.from(bytes, "hex"));
      let answer: unknown;
      try {
        answer = await this.#client.call(name, [value]);
      } catch (error) {
        if (this.#isJson && error instanceof CodecError) continue; // told before it was sent
        throw new Error(`${bytes}: ${(error as Error).message}`, { cause: error });
      }
      if (this.#isJson) requireEqual(answer, Object.is(value, -0) ? 0 : value);
      else requireEqual(Buffer.from(new Encoder().encode(answer)).toString("hex"), bytes);
    }
  }
}

function check(raises: Raised, error: Error, gives: unknown, got: unknown[]): void {
  if (gives !== undefined) requireEqual(got, gives);
  const { message, text, cause, where, code } = raises;
  const told = error as Error & { text?: string; code?: string; traceback?: string };
  if (message !== undefined) requireEqual(told.text, message);
  if (text !== undefined && !told.message.includes(text)) throw error;
  if (cause !== undefined) requireEqual((told.cause as { text?: string } | undefined)?.text, cause);
  if (where !== undefined && !(told.traceback ?? "").includes(where)) throw error;
  if (code !== undefined) requireEqual(told.code, code);
}

function requireEqual(value: unknown, wanted: unknown): void {
  if (!isDeepStrictEqual(value, wanted))
    throw new Error(`gave ${Bun.inspect(value).slice(0, 300)} instead of ${Bun.inspect(wanted).slice(0, 300)}`);
}
