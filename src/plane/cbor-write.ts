/** Values to CBOR: what all writers share. It grows its buffer, and allocates nothing else. */
import { CodecError } from "./values.ts";

const FIRST_BYTES = 4096;
const utf8 = new TextEncoder();

/** Items one after the other, up to a size. */
export class Writer {
  #bytes = new Uint8Array(FIRST_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;
  #sizeMax = Number.MAX_SAFE_INTEGER;

  /** Forgets what was written. */
  begin(sizeMax: number): void {
    this.#at = 0;
    this.#sizeMax = sizeMax;
  }

  /** What was written, valid until more is. */
  get written(): Uint8Array {
    return this.#bytes.subarray(0, this.#at);
  }

  #room(count: number): void {
    const needed = this.#at + count;
    if (needed > this.#sizeMax)
      throw new CodecError(
        "SIZE",
        `more than ${this.#sizeMax} bytes; large data belongs in shared memory: shared(Uint8Array, n)`,
      );
    if (needed <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
    grown.set(this.#bytes.subarray(0, this.#at));
    this.#bytes = grown;
    this.#view = new DataView(grown.buffer);
  }

  head(major: number, value: number): void {
    this.#room(9);
    const bytes = this.#bytes;
    const kind = major << 5;
    if (value < 24) bytes[this.#at++] = kind | value;
    else if (value < 0x100) {
      bytes[this.#at++] = kind | 24;
      bytes[this.#at++] = value;
    } else if (value < 0x10000) {
      bytes[this.#at++] = kind | 25;
      this.#view.setUint16(this.#at, value);
      this.#at += 2;
    } else if (value < 0x1_0000_0000) {
      bytes[this.#at++] = kind | 26;
      this.#view.setUint32(this.#at, value);
      this.#at += 4;
    } else {
      bytes[this.#at++] = kind | 27;
      this.#view.setUint32(this.#at, Math.floor(value / 0x1_0000_0000));
      this.#view.setUint32(this.#at + 4, value >>> 0);
      this.#at += 8;
    }
  }

  byte(byte: number): void {
    this.#room(1);
    this.#bytes[this.#at++] = byte;
  }

  number(value: number): void {
    if (Number.isSafeInteger(value) && !Object.is(value, -0))
      return value >= 0 ? this.head(0, value) : this.head(1, -1 - value);
    this.double(value);
  }

  /** In nine bytes, whatever it is. */
  double(value: number): void {
    this.#room(9);
    this.#bytes[this.#at++] = 0xfb;
    this.#view.setFloat64(this.#at, value);
    this.#at += 8;
  }

  bigint(value: bigint): void {
    const isNegative = value < 0n;
    const size = isNegative ? -1n - value : value;
    if (size < 1n << 64n) {
      if (size <= BigInt(Number.MAX_SAFE_INTEGER)) return this.head(isNegative ? 1 : 0, Number(size));
      this.#room(9);
      this.#bytes[this.#at++] = isNegative ? 0x3b : 0x1b;
      this.#view.setBigUint64(this.#at, size);
      this.#at += 8;
      return;
    }
    const hex = size.toString(16);
    const bytes = Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, "hex");
    this.head(6, isNegative ? 3 : 2);
    this.raw(bytes);
  }

  /** A byte string. */
  raw(bytes: Uint8Array): void {
    this.head(2, bytes.length);
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  string(text: string): void {
    const { length } = text;
    if (length < 64 && this.#shortAscii(text, length)) return;
    if (!text.isWellFormed())
      throw new CodecError(
        "TYPE",
        "a string with a lone surrogate cannot be encoded as UTF-8; text.toWellFormed() fixes it",
      );
    const size = Buffer.byteLength(text);
    this.head(3, size);
    this.#room(size);
    utf8.encodeInto(text, this.#bytes.subarray(this.#at, this.#at + size));
    this.#at += size;
  }

  /** Handles most keys and names. Keeps nothing if a character is not ASCII. */
  #shortAscii(text: string, length: number): boolean {
    const start = this.#at;
    this.head(3, length);
    this.#room(length);
    const bytes = this.#bytes;
    let at = this.#at;
    for (let index = 0; index < length; index++) {
      const code = text.charCodeAt(index);
      if (code > 127) {
        this.#at = start;
        return false;
      }
      bytes[at++] = code;
    }
    this.#at = at;
    return true;
  }
}
