/** How messages become bytes, and are found in a byte stream: frames of CBOR, lines of JSON. */
import { IpcError } from "../base/errors.ts";
import { BrokenChannel } from "../plane/ring.ts";
import type { Message, Role } from "./transport.ts";

export interface Codec {
  /** Of this side, once it is known. */
  role: Role;
  /** @throws CodecError for a value that cannot be encoded */
  encode(message: Message): Uint8Array;
  push(bytes: Uint8Array): void;
  /** The next whole message, if there is one. @throws BrokenChannel */
  next(): Message | Unreadable | undefined;
}

export const CALL_FIELDS = 5;
/** A call in which there is no fault. */
export type CallMessage = readonly [
  kind: number,
  number: number,
  name: string,
  args: readonly unknown[],
  kwargs: object | null,
];

/** Of a CALL, or of an INVOKE, whose number could be read: what it is answered with, where it is not one. */
export function faultOfCall(message: Message): IpcError | undefined {
  const [, , name, args, kwargs] = message;
  const isCall =
    typeof name === "string" && Array.isArray(args) && typeof kwargs === "object" && !Array.isArray(kwargs);
  if (isCall && message.length === CALL_FIELDS) return undefined;
  return new IpcError(
    "BAD_REQUEST",
    "malformed: a call has a name, a list of arguments, and keyword arguments or null",
  );
}

/** A message that is well-formed, but contains something that this program cannot hold. */
export class Unreadable {
  readonly kind: number;
  readonly number: number;
  readonly cause: Error;

  constructor(kind: number, number: number, cause: Error) {
    this.kind = kind;
    this.number = number;
    this.cause = cause;
  }
}

/** @throws BrokenChannel if it does not have the form of a message */
export function checked(value: unknown): Message {
  if (!Array.isArray(value) || typeof value[1] !== "number") throw new BrokenChannel("a malformed message");
  return value as unknown as Message;
}
