/** Values of the guest as text for people. Runs no code of the guest: getters are named, proxies not looked into. */
import {
  isAnyArrayBuffer,
  isDate,
  isMap,
  isNativeError,
  isPromise,
  isProxy,
  isRegExp,
  isSet,
  isTypedArray,
} from "node:util/types";

const DEPTH = 3;
const ITEMS = 100;
const CHARACTERS = 10_000;
const PLAIN_KEY = /^[A-Za-z_$][\w$]*$/;

/** Text as it is, everything else as it would be written. */
export function inspect(value: unknown): string {
  const text = typeof value === "string" ? value : new Inspection().show(value, 0);
  return text.length > CHARACTERS ? `${text.slice(0, CHARACTERS)}… (${text.length} characters)` : text;
}

class Inspection {
  readonly #open: object[] = [];

  show(value: unknown, depth: number): string {
    switch (typeof value) {
      case "string":
        return JSON.stringify(value.slice(0, CHARACTERS));
      case "bigint":
        return `${value}n`;
      case "symbol":
        return Symbol.prototype.toString.call(value);
      case "number":
        return Object.is(value, -0) ? "-0" : String(value);
      case "function":
        return this.#function(value);
      case "object":
        return value === null ? "null" : this.#object(value, depth);
      case "boolean":
      case "undefined":
        return String(value);
    }
  }

  #function(value: Function): string {
    const name = isProxy(value) ? undefined : (Reflect.getOwnPropertyDescriptor(value, "name")?.value as unknown);
    return typeof name === "string" && name !== "" ? `[Function: ${name}]` : "[Function]";
  }

  #object(value: object, depth: number): string {
    if (isProxy(value)) return "[Proxy]";
    if (this.#open.includes(value)) return "[Circular]";
    if (isDate(value)) {
      const ms = Date.prototype.getTime.call(value);
      return Number.isNaN(ms) ? "Invalid Date" : new Date(ms).toISOString();
    }
    if (isRegExp(value)) return RegExp.prototype.toString.call(value);
    if (isPromise(value)) return "[Promise]";
    if (isNativeError(value)) return this.#error(value);
    this.#open.push(value);
    try {
      return this.#container(value, depth);
    } finally {
      this.#open.pop();
    }
  }

  #error(value: object): string {
    const [stack, message] = ["stack", "message"].map(
      (key) => Reflect.getOwnPropertyDescriptor(value, key)?.value as unknown,
    );
    return typeof stack === "string" ? stack : `[Error${typeof message === "string" ? `: ${message}` : ""}]`;
  }

  #container(value: object, depth: number): string {
    if (Array.isArray(value)) {
      if (depth >= DEPTH) return "[Array]";
      return `[${listed(value.length, (at) => this.#property(value, String(at), depth)).join(", ")}]`;
    }
    if (isTypedArray(value)) {
      const { length } = value;
      return `[${listed(length, (at) => this.show(value[at], depth)).join(", ")}]`;
    }
    if (isAnyArrayBuffer(value)) return `ArrayBuffer(${(value as ArrayBuffer).byteLength})`;
    if (isSet(value)) {
      const items: unknown[] = [];
      Set.prototype.forEach.call(value, (item) => void items.push(item));
      return `Set {${listed(items.length, (at) => this.show(items[at], depth + 1)).join(", ")}}`;
    }
    if (isMap(value)) {
      const pairs: string[] = [];
      Map.prototype.forEach.call(value, (item, key) => {
        if (pairs.length <= ITEMS) pairs.push(`${this.show(key, depth + 1)} => ${this.show(item, depth + 1)}`);
      });
      return `Map {${pairs.join(", ")}}`;
    }
    const keys = Object.keys(value);
    if (keys.length === 0) return "{}";
    if (depth >= DEPTH) return "[Object]";
    const shown = listed(keys.length, (at) => {
      const key = keys[at]!;
      return `${PLAIN_KEY.test(key) ? key : JSON.stringify(key)}: ${this.#property(value, key, depth)}`;
    });
    return `{ ${shown.join(", ")} }`;
  }

  #property(of: object, key: string, depth: number): string {
    const found = Reflect.getOwnPropertyDescriptor(of, key);
    if (found === undefined) return "<empty>";
    return "value" in found ? this.show(found.value, depth + 1) : "[Getter]";
  }
}

/** No more than is shown in the end: of nested lists, all of it could be more than memory has room for. */
function listed(count: number, show: (at: number) => string): string[] {
  const shown: string[] = [];
  let characters = 0;
  for (let at = 0; at < Math.min(count, ITEMS) && characters <= CHARACTERS; at++) {
    const text = show(at);
    characters += text.length;
    shown.push(text);
  }
  return count > shown.length ? [...shown, `… ${count - shown.length} more`] : shown;
}
