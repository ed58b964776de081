/** How messages become bytes, and are found in a byte stream: frames of CBOR, lines of JSON. */
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

/** Kind, number, name, arguments, keyword arguments or null. */
export const CALL_FIELDS = 5;

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
