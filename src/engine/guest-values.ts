/**
 * Values of the guest's realm, as bytes of docs/internals/encoding.md and back. Everything is read by functions of our
 * own realm, which the guest cannot change; getters and proxies of the guest may run all the same.
 */
import {
  isAnyArrayBuffer,
  isArgumentsObject,
  isDataView,
  isDate,
  isMap,
  isProxy,
  isSet,
  isTypedArray,
} from "node:util/types";
import { KEPT_ROOM, LARGE_BYTES, REFERENCE } from "../../contract/engine.ts";
import { Reader, malformed } from "../plane/cbor-decode.ts";
import { Writer } from "../plane/cbor-write.ts";
import { NdArray, typeOf, type TypedArray } from "../plane/values.ts";
import type { Kept } from "./kept-room.ts";
import type { Realm } from "./realm.ts";

/** A value that cannot be sent. */
export class ValueFault extends Error {}

export type Limits = { readonly depth: number; readonly bytes: number };

/** What values refer to, by number. */
export type References = {
  /** A function of the guest that Python may call from now on. */
  readonly lend: (fn: Function, self: unknown) => number;
  readonly isStream: (value: object) => boolean;
  readonly lendStream: (stream: object) => number;
  /** The function behind a number. */
  readonly found: (number: number) => Function;
  /** Where Python finds a view of shared memory; undefined if it is not shared. And the view that Python means. */
  readonly share: (view: TypedArray) => readonly unknown[] | undefined;
  readonly shared: (form: unknown) => TypedArray | NdArray;
  /** Memory of so many bytes that Python has as well; undefined where it gives none. */
  readonly room: (bytes: number) => Uint8Array | undefined;
  /** The same for bytes, in memory that is there already; undefined while another value is in it. */
  readonly keptRoom: (bytes: number) => Kept | undefined;
  readonly operation: (number: number, isAsync: boolean, name: string) => Function;
  /** The stream behind a number of ours, and behind one of Python. */
  readonly lentStream: (number: number) => object;
  readonly stream: (number: number, ahead: number) => object;
};

const TYPED = Object.getPrototypeOf(Uint8Array.prototype) as object;
const get = (of: object, name: PropertyKey): ((this: void) => unknown) =>
  (Object.getOwnPropertyDescriptor(of, name) as { readonly get: (this: void) => unknown }).get;
const nameOf = get(TYPED, Symbol.toStringTag);
const viewBuffer = get(TYPED, "buffer");
const viewOffset = get(TYPED, "byteOffset");
const viewBytes = get(TYPED, "byteLength");
const viewLength = get(TYPED, "length");
const dataBuffer = get(DataView.prototype, "buffer");
const dataOffset = get(DataView.prototype, "byteOffset");
const dataBytes = get(DataView.prototype, "byteLength");
const setSize = get(Set.prototype, "size");
const mapSize = get(Map.prototype, "size");
const { apply, ownKeys, getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
/** Tags of RFC 8746, by the name of the class. */
const TAGS: Readonly<Record<string, number>> = {
  Uint8ClampedArray: 68,
  Uint16Array: 69,
  Uint32Array: 70,
  BigUint64Array: 71,
  Int8Array: 72,
  Int16Array: 77,
  Int32Array: 78,
  BigInt64Array: 79,
  Float16Array: 84,
  Float32Array: 85,
  Float64Array: 86,
};
/** What values count towards the limit on their bytes. */
const COST = { null: 4, boolean: 5, integer: 20, double: 24, date: 16, set: 24, hole: 1 };
/** What is empty takes memory of Python too: a dict 64 bytes, a function some 600, a stream 2,600. */
const OBJECT_COST = { container: 16, function: 32, stream: 256 };
const I64 = 2 ** 63;
const FIRST_MS = Date.parse("0001-01-01T00:00:00Z");
const LAST_MS = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

export class GuestWriter {
  readonly #out = new Writer();
  readonly #realm: Realm;
  readonly #references: References;
  readonly #open: object[] = [];
  #limits: Limits = { depth: 0, bytes: 0 };
  #cost = 0;
  /** How many members of sets and keys of maps what is written lies in: Python must be able to hash them. */
  #keys = 0;
  /** Taken for what is written. */
  #kept: Kept | undefined;
  /** It is in the middle of a message, in which code of the guest may run. */
  isBusy = false;

  constructor(realm: Realm, references: References) {
    this.#realm = realm;
    this.#references = references;
  }

  /**
   * A message whose last field is a value of the guest, valid until the next one.
   * @param head the fields before it: numbers and text of ours
   * @throws ValueFault; whatever a getter throws
   */
  message(head: readonly (number | string | boolean)[], value: unknown, limits: Limits): Uint8Array {
    this.#begin(head, 1, limits);
    try {
      this.#value(value, 1, undefined);
      this.#kept = undefined;
    } finally {
      this.#end();
    }
    return this.#out.written;
  }

  /** The same with the arguments of a call, and fields behind them. */
  invocation(
    head: readonly (number | string | boolean)[],
    args: readonly unknown[],
    tail: readonly (number | boolean)[],
    limits: Limits,
  ): Uint8Array {
    this.#begin(head, 1 + tail.length, limits);
    this.#out.head(4, args.length);
    try {
      for (let at = 0; at < args.length; at++) this.#value(args[at], 1, undefined);
      this.#kept = undefined;
    } finally {
      this.#end();
    }
    for (const one of tail) this.#plain(one);
    return this.#out.written;
  }

  #begin(head: readonly (number | string | boolean)[], more: number, limits: Limits): void {
    this.isBusy = true;
    this.#limits = limits;
    this.#cost = 0;
    this.#keys = 0;
    this.#open.length = 0;
    this.#out.begin(Number.MAX_SAFE_INTEGER);
    this.#out.head(4, head.length + more);
    for (const one of head) this.#plain(one);
  }

  #end(): void {
    this.isBusy = false;
    this.#kept?.leave();
    this.#kept = undefined;
  }

  #plain(one: number | string | boolean): void {
    if (typeof one === "number") this.#out.number(one);
    else if (typeof one === "string") this.#out.string(one.toWellFormed());
    else this.#out.byte(one ? 0xf5 : 0xf4);
  }

  #pay(cost: number): void {
    this.#cost += cost;
    if (this.#cost > this.#limits.bytes)
      throw new ValueFault(`Size (${this.#cost} bytes) exceeded maximum limit of ${this.#limits.bytes} bytes`);
  }

  /** @param self the object that it was found in: a function keeps it as its `this` */
  #value(value: unknown, depth: number, self: unknown): void {
    if (depth > this.#limits.depth) throw new ValueFault(`Depth exceeded maximum limit of ${this.#limits.depth}`);
    const out = this.#out;
    switch (typeof value) {
      case "number":
        return this.#number(value);
      case "string":
        return this.#text(value);
      case "boolean":
        this.#pay(COST.boolean);
        return out.byte(value ? 0xf5 : 0xf4);
      case "undefined":
        this.#pay(depth > 1 ? COST.hole : 0);
        return out.byte(0xf7);
      case "bigint":
        this.#pay(COST.integer + (value < 2n ** 64n && value > -(2n ** 64n) ? 0 : value.toString(16).length / 2));
        return out.bigint(value);
      case "symbol":
        throw new ValueFault("Cannot convert a Symbol: it has no counterpart in Python");
      case "function":
        this.#pay(OBJECT_COST.function);
        return this.#reference(REFERENCE.guestFunction, this.#references.lend(value, self), value);
      case "object":
        if (value !== null) return this.#object(value, depth);
        this.#pay(COST.null);
        return out.byte(0xf6);
    }
  }

  #number(value: number): void {
    const isInteger = Number.isInteger(value) && !Object.is(value, -0);
    this.#pay(isInteger ? COST.integer : COST.double);
    // Beyond the safe integers it is one value all the same, which an int holds exactly.
    if (isInteger && !Number.isSafeInteger(value) && value < I64 && value >= -I64)
      return this.#out.bigint(BigInt(value));
    this.#out.number(value);
  }

  #text(text: string): void {
    const whole = text.isWellFormed() ? text : text.toWellFormed();
    // A string that is far too long is not measured: that would take as long as to send it.
    this.#pay(whole.length > this.#limits.bytes ? whole.length : Buffer.byteLength(whole));
    this.#out.string(whole);
  }

  #reference(kind: number, number: number, fn?: Function): void {
    const name = fn === undefined ? undefined : dataProperty(fn, "name");
    this.#out.head(6, 27);
    this.#out.head(4, fn === undefined ? 3 : 4);
    this.#out.string("ipcctl.Reference");
    this.#out.number(kind);
    this.#out.number(number);
    if (fn !== undefined) this.#out.string(typeof name === "string" ? name.slice(0, 100).toWellFormed() : "");
  }

  #object(value: object, depth: number): void {
    const prototype = isProxy(value) ? undefined : getPrototypeOf(value);
    if (prototype === this.#realm.make.objectPrototype && !isArgumentsObject(value)) return this.#record(value, depth);
    if (Array.isArray(value)) return this.#list(value, depth);
    if (isTypedArray(value)) return this.#view(value);
    if (isDate(value)) return this.#date(value);
    if (isSet(value)) return this.#set(value, depth);
    if (isAnyArrayBuffer(value)) return this.#memory(new Uint8Array(value as ArrayBuffer));
    if (isDataView(value)) {
      const [buffer, at, size] = [dataBuffer, dataOffset, dataBytes].map((read) => apply(read, value, []));
      return this.#memory(new Uint8Array(buffer as ArrayBuffer, at as number, size as number));
    }
    if (isMap(value)) return this.#map(value, depth);
    if (this.#references.isStream(value)) {
      this.#pay(OBJECT_COST.stream);
      return this.#reference(REFERENCE.engineStream, this.#references.lendStream(value));
    }
    this.#record(value, depth);
  }

  #enter(container: object): void {
    if (this.#open.includes(container)) throw new ValueFault("Cannot serialize circular reference");
    this.#pay(OBJECT_COST.container);
    this.#open.push(container);
  }

  #record(value: object, depth: number): void {
    if (this.#keys > 0) throw unhashable("an object");
    this.#enter(value);
    const keys: string[] = [];
    for (const key of ownKeys(value))
      if (typeof key === "string" && getOwnPropertyDescriptor(value, key)?.enumerable === true) keys.push(key);
    this.#out.head(5, keys.length);
    for (const key of keys) {
      this.#text(key);
      this.#value((value as Record<string, unknown>)[key], depth + 1, value);
    }
    this.#open.pop();
  }

  #list(value: unknown[], depth: number): void {
    this.#enter(value);
    const told: unknown = value.length; // of a proxy, anything
    const length = Math.max(0, Math.trunc(Number(told)) || 0);
    this.#pay(length * COST.hole);
    this.#out.head(4, length);
    for (let at = 0; at < length; at++) this.#value(value[at], depth + 1, value);
    this.#open.pop();
  }

  #set(value: Set<unknown>, depth: number): void {
    this.#enter(value);
    const count = apply(setSize, value, []) as number;
    this.#pay(COST.set + 8 * count);
    this.#out.head(6, 258);
    this.#out.head(4, count);
    const items: unknown[] = [];
    Set.prototype.forEach.call(value, (item) => void items.push(item));
    this.#keys++;
    for (const item of items) this.#value(item, depth + 1, undefined);
    this.#keys--;
    this.#open.pop();
  }

  #map(value: Map<unknown, unknown>, depth: number): void {
    if (this.#keys > 0) throw unhashable("a Map");
    this.#enter(value);
    const count = apply(mapSize, value, []) as number;
    const entries: [unknown, unknown][] = [];
    Map.prototype.forEach.call(value, (item, key) => void entries.push([key, item]));
    if (!entries.every(([key]) => typeof key === "string")) this.#out.head(6, 259);
    this.#out.head(5, count);
    for (const [key, item] of entries) {
      this.#keys++;
      this.#value(key, depth + 1, undefined);
      this.#keys--;
      this.#value(item, depth + 1, undefined);
    }
    this.#open.pop();
  }

  #date(value: Date): void {
    this.#pay(COST.date);
    const ms = Date.prototype.getTime.call(value);
    if (!(ms >= FIRST_MS && ms <= LAST_MS))
      throw new ValueFault("Date value out of range: Python has those of the years 1 to 9999");
    this.#out.head(6, 1);
    this.#out.double(ms / 1000);
  }

  #view(value: object): void {
    const [buffer, at, size] = [viewBuffer, viewOffset, viewBytes].map((read) => apply(read, value, []));
    const tag = TAGS[apply(nameOf, value, []) as string];
    this.#memory(new Uint8Array(buffer as ArrayBuffer, at as number, size as number), tag);
  }

  /** @param tag of anything but bytes */
  #memory(bytes: Uint8Array, tag?: number): void {
    const form = this.#references.share(tag === undefined ? bytes : viewOf(tag, bytes));
    if (form) return this.#shared(form);
    if (tag !== undefined && this.#keys > 0) throw unhashable("an array of numbers");
    this.#pay(bytes.length + (tag === undefined ? 0 : OBJECT_COST.container));
    if (tag === undefined && bytes.length >= KEPT_ROOM.least && this.#isKept(bytes)) return;
    if (bytes.length >= LARGE_BYTES.toPython && this.#isMoved(bytes, tag)) return;
    if (tag !== undefined) this.#out.head(6, tag);
    this.#out.raw(bytes);
  }

  /** Writes bytes into memory that both sides have kept. False where that is not to be had. */
  #isKept(bytes: Uint8Array): boolean {
    const kept = this.#references.keptRoom(bytes.length);
    if (kept === undefined) return false;
    this.#kept = kept;
    kept.bytes.set(bytes);
    const form = this.#references.share(kept.bytes);
    if (form === undefined) return false;
    this.#shared(form, "ipcctl.Bytes", kept.place);
    return true;
  }

  /** Writes it once, into memory that Python has mapped. False where there is none. */
  #isMoved(bytes: Uint8Array, tag: number | undefined): boolean {
    const room = this.#references.room(bytes.length);
    if (room === undefined) return false;
    room.set(bytes);
    const form = this.#references.share(tag === undefined ? room : viewOf(tag, room));
    if (form === undefined) return false;
    this.#shared(form, tag === undefined ? "ipcctl.Bytes" : "ipcctl.Shared");
    return true;
  }

  /**
   * It costs nothing: it is not copied.
   * @param place of the byte that Python clears once it has copied it
   */
  #shared(form: readonly unknown[], name = "ipcctl.Shared", place?: number): void {
    const [number, offset, size, tag, shape] = form as [number, number, number, number, number[]];
    this.#out.head(6, 27);
    this.#out.head(4, place === undefined ? 2 : 3);
    this.#out.string(name);
    this.#out.head(4, form.length);
    for (const one of [number, offset, size, tag]) this.#out.number(one);
    this.#out.head(4, shape.length);
    for (const one of shape) this.#out.number(one);
    if (place !== undefined) this.#out.number(place);
  }
}

function viewOf(tag: number, { buffer, byteOffset, length }: Uint8Array): TypedArray {
  const type = typeOf(tag) as unknown as ViewType;
  return new type(buffer, byteOffset, length / type.BYTES_PER_ELEMENT);
}

type ViewType = {
  new (buffer: ArrayBufferLike, offset: number, length: number): TypedArray;
  readonly BYTES_PER_ELEMENT: number;
};

function unhashable(what: string): ValueFault {
  return new ValueFault(`${what} as a member of a Set, or as a key of a Map: Python cannot hash it`);
}

/** Reads what a property holds, and runs nothing for it. */
export function dataProperty(of: object, name: PropertyKey): unknown {
  return isProxy(of) ? undefined : getOwnPropertyDescriptor(of, name)?.value;
}

/** A copy of what a buffer of the guest, or a view, shows. */
export function bytesOf(value: ArrayBufferLike | ArrayBufferView): Uint8Array {
  const of = (buffer: () => unknown, offset: () => unknown, bytes: () => unknown): Uint8Array =>
    new Uint8Array(...([buffer, offset, bytes].map((one) => apply(one, value, [])) as [ArrayBuffer, number, number]));
  if (isAnyArrayBuffer(value)) return new Uint8Array(value as ArrayBuffer).slice();
  const view = isDataView(value) ? of(dataBuffer, dataOffset, dataBytes) : of(viewBuffer, viewOffset, viewBytes);
  return view.slice();
}

/** Makes values of the guest's realm. */
export class GuestReader extends Reader {
  readonly #realm: Realm;
  readonly #references: References;

  constructor(bytes: Uint8Array, realm: Realm, references: References) {
    super(bytes, undefined, false);
    this.#realm = realm;
    this.#references = references;
  }

  protected override octets(bytes: Uint8Array): unknown {
    return this.#copied("Uint8Array", bytes.length, bytes);
  }

  protected override list(items: unknown[]): unknown {
    return this.#realm.make.list(items);
  }

  protected override record(fields: Record<string, unknown>): unknown {
    return this.#realm.make.record(fields);
  }

  protected override group(items: unknown[]): unknown {
    return this.#realm.make.group(items);
  }

  protected override table(entries: Map<unknown, unknown>): unknown {
    return this.#realm.make.table([...entries]);
  }

  protected override time(date: Date): unknown {
    return this.#realm.make.time(date.getTime());
  }

  protected override array(array: ArrayBufferView & { readonly length: number }): unknown {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    return this.#copied(apply(nameOf, array, []) as string, array.length, bytes);
  }

  /** As an object: what a class of ours has made would lead to all that is ours. */
  protected override shaped(shape: readonly number[], data: ArrayBufferView): unknown {
    if (shape.reduce((product, size) => product * size, 1) !== apply(viewLength, data, []))
      throw malformed("a shape that does not fit its data");
    const { list, record } = this.#realm.make;
    return record({ shape: list([...shape]), data });
  }

  #copied(name: string, length: number, bytes: Uint8Array): ArrayBufferView {
    const made = this.#realm.make.array(name, length);
    new Uint8Array(apply(viewBuffer, made, []) as ArrayBuffer).set(bytes);
    return made;
  }

  /** Without the guest's copy of it: its lists may be handled by its own functions. */
  #shared(form: unknown): unknown {
    const plain = (list: unknown): unknown[] => {
      if (!Array.isArray(list)) throw malformed("a malformed description of shared memory");
      const items: unknown[] = [];
      for (let at = 0; at < list.length; at++) items.push(list[at]);
      return items;
    };
    const [number, offset, bytes, tag, shape] = plain(form);
    const found = this.#references.shared([number, offset, bytes, tag, plain(shape)]);
    const view = found instanceof NdArray ? found.data : found;
    const name = apply(nameOf, view, []) as string;
    const made = this.#realm.make.view(name, view.buffer as ArrayBuffer, view.byteOffset, view.length);
    return found instanceof NdArray ? this.shaped(found.shape, made) : made;
  }

  protected override named(parts: unknown): unknown {
    const at = parts as unknown[]; // no iterator of the guest
    const [what, kind, number, more, name] = [at[0], at[1], at[2], at[3], at[4]];
    if (what === "ipcctl.Shared") return this.#shared(kind);
    if (what !== "ipcctl.Reference" || !Number.isSafeInteger(number))
      throw malformed("tag 27 on something other than a reference");
    if (kind === REFERENCE.guestFunction) return this.#references.found(number as number);
    if (kind === REFERENCE.operation) return this.#references.operation(number as number, more === true, String(name));
    if (kind === REFERENCE.engineStream) return this.#references.lentStream(number as number);
    if (kind === REFERENCE.pythonStream) return this.#references.stream(number as number, more as number);
    throw malformed("a reference of an unknown kind");
  }
}
