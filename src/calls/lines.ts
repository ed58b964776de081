/** Messages as lines of JSON, for peers without CBOR. A value that JSON cannot express is refused, never changed. */
import { TO_WORKER } from "../../contract/messages.ts";
import { ByteQueue } from "../base/byte-queue.ts";
import { limit } from "../base/limits.ts";
import { CodecError, StreamRef, stepOf } from "../plane/values.ts";
import { BrokenChannel } from "../plane/ring.ts";
import { CALL_FIELDS, checked, type Codec } from "./codec.ts";
import type { Message, Role } from "./transport.ts";

const LINE_BYTES_MAX = limit("messageBytes");
const DEPTH_MAX = limit("valueDepth");
const NEWLINE = 10;
/** The index of the arguments in a call. */
const ARGUMENTS = 3;

export class Lines implements Codec {
  role: Role = "client";
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  readonly #held = new ByteQueue();
  /** Without a newline among them. */
  #seen = 0;

  encode(message: Message): Uint8Array {
    const sent = withoutStreams(message);
    requireJson(sent, []);
    const bytes = Buffer.from(`${JSON.stringify(sent)}\n`);
    if (bytes.length > LINE_BYTES_MAX) throw new CodecError("SIZE", `more than ${LINE_BYTES_MAX} bytes`);
    return bytes;
  }

  push(bytes: Uint8Array): void {
    this.#held.push(bytes);
  }

  next(): Message | undefined {
    const end = this.#held.bytes.indexOf(NEWLINE, this.#seen);
    this.#seen = end < 0 ? this.#held.length : 0;
    if ((end < 0 ? this.#held.length : end) > LINE_BYTES_MAX)
      throw new BrokenChannel(`a line of more than ${LINE_BYTES_MAX} bytes`);
    if (end < 0) return undefined;
    const line = this.#held.take(end + 1).subarray(0, end);
    let value: unknown;
    try {
      value = JSON.parse(this.#utf8.decode(line));
    } catch (error) {
      const shown = JSON.stringify(Buffer.from(line.subarray(0, 60)).toString());
      throw new BrokenChannel(`a line that is not JSON: ${shown}: ${(error as Error).message}`);
    }
    requireLevels(value, DEPTH_MAX);
    return this.role === "server" ? withStreams(checked(value)) : checked(value);
  }
}

/** Code that walks through a value of the other side must not run out of stack. @throws BrokenChannel */
function requireLevels(value: unknown, left: number): void {
  if (value === null || typeof value !== "object") return;
  if (left === 0) throw new BrokenChannel(`a line of more than ${DEPTH_MAX} levels`);
  for (const item of Array.isArray(value) ? (value as unknown[]) : Object.values(value)) requireLevels(item, left - 1);
}

/** JSON has no form for a stream: a call with streams among its arguments lists their places in one more field. */
function withoutStreams(message: Message): Message {
  const args = message[ARGUMENTS];
  if (!Array.isArray(args) || !args.some((one) => one instanceof StreamRef)) return message;
  const streams = args.flatMap((one: unknown, at) => (one instanceof StreamRef ? [[at, one.number]] : []));
  const [kind, number, name, , kwargs] = message;
  return [kind, number, name, args.map((one: unknown) => (one instanceof StreamRef ? null : one)), kwargs, streams];
}

/** If there are none where it says, it stays as it is: with one field too many, it is not a call. */
function withStreams(message: Message): Message {
  const [kind, number, name, args, kwargs, streams] = message;
  if (kind !== TO_WORKER.call || message.length !== CALL_FIELDS + 1) return message;
  if (!Array.isArray(streams) || !Array.isArray(args)) return message;
  const filled: unknown[] = [...(args as unknown[])];
  for (const pair of streams as unknown[]) {
    const [at, stream] = Array.isArray(pair) ? (pair as unknown[]) : [];
    if (!Number.isSafeInteger(at) || !Number.isSafeInteger(stream) || !((at as number) in filled)) return message;
    filled[at as number] = new StreamRef(stream as number);
  }
  return [kind, number, name, filled, kwargs];
}

/** @throws CodecError TYPE, CYCLE, DEPTH with the place of what JSON would lose */
function requireJson(value: unknown, open: object[]): void {
  if (typeof value === "string") {
    if (value.isWellFormed()) return;
    throw new CodecError(
      "TYPE",
      "a string with a lone surrogate cannot be encoded as UTF-8; text.toWellFormed() fixes it",
    );
  }
  if (value === null || typeof value === "boolean" || Number.isFinite(value)) return;
  if (typeof value !== "object")
    throw new CodecError("TYPE", `JSON has no ${typeof value === "number" ? value : typeof value}`);
  if (open.includes(value)) throw new CodecError("CYCLE", "a container contains itself");
  if (open.push(value) > DEPTH_MAX) throw new CodecError("DEPTH", `more than ${DEPTH_MAX} levels`);
  if (Array.isArray(value))
    for (let index = 0; index < value.length; index++) inside(value[index], open, () => `[${index}]`);
  else {
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype !== Object.prototype && prototype !== null) {
      const name = (value.constructor as { name?: string } | undefined)?.name ?? "an object without a class";
      throw new CodecError("TYPE", `JSON has no ${name}`);
    }
    if (typeof (value as { toJSON?: unknown }).toJSON === "function")
      throw new CodecError("TYPE", "toJSON would send something else");
    for (const [key, item] of Object.entries(value)) inside(item, open, () => stepOf(key));
  }
  open.pop();
}

function inside(value: unknown, open: object[], step: () => string): void {
  try {
    requireJson(value, open);
  } catch (error) {
    throw error instanceof CodecError ? error.at(step()) : error;
  }
}
