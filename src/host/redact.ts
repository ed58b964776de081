/**
 * Takes secrets out of what leaves a plugin: the credentials that it was given, wherever and however they are written,
 * and then what looks like a secret (`secret-patterns.ts`). It tells in which field something was, never what.
 *
 * Credentials are found in their common encodings, alone or within something longer: plain, escaped for JSON or
 * another language, for a URL, for HTML, in base64 (of any alignment, either alphabet, wrapped), in hex, reversed; and
 * split over neighbouring fields, over any two, or over the items of a stream. What was compressed or encrypted is not
 * recognised.
 */
import { limit } from "../base/limits.ts";
import {
  findPatterns,
  findSplitKeys,
  isTokenField,
  mayHavePatterns,
  PRIVATE_KEY,
  type Range,
} from "./secret-patterns.ts";
import { viewsOf } from "./views.ts";

export const REDACTED = "[redacted]";

/** What was taken out of `value`. */
export type Redacted<T = unknown> = { readonly value: T; readonly found: readonly Found[] };
/** The path has names and indexes with dots between; what was redacted of a name is redacted there too. */
export type Found = { readonly path: string; readonly what: string };

/** A text within a value, in the order in which JSON has them. Numbers too: a credential may be digits alone. */
type Leaf = { readonly text: string; readonly kind: "key" | "string" | "number"; readonly isToken: boolean };

const isString = ({ kind }: Leaf): boolean => kind === "string";
/** Neighbours, by which a split text is put together; each that has no other's members is looked at. */
const LANES: readonly ((leaf: Leaf) => boolean)[] = [
  () => true,
  ({ kind }) => kind !== "key",
  ({ kind }) => kind !== "number",
  isString,
  ({ kind }) => kind === "key",
];

/** Of the beginning of a credential at the end of an item, as many characters make the stream wait for the next one. */
const BEGINNING_CHARS = 4;

export class Redactor {
  readonly #forms: Forms;

  /** @param credentials by their names; also earlier values that may still be in use, under any name */
  constructor(credentials: Readonly<Record<string, string>> = {}) {
    this.#forms = new Forms(credentials);
  }

  /** @param value as JSON.parse makes it; the same one comes back if there is nothing to take out */
  value(value: unknown): Redacted {
    return rebuilt(value, this.#ranges(leavesOf(value)));
  }

  /** @param text of JSON as JSON.stringify writes it; it comes back as it is if there is nothing to take out */
  json(text: string): Redacted<string> {
    if (this.#forms.isEmpty && !mayHavePatterns(text)) return { value: text, found: [] };
    const { value, found } = this.value(JSON.parse(text));
    return { value: found.length === 0 ? text : JSON.stringify(value), found };
  }

  /** A line of a log, a message of an error. */
  text(text: string): Redacted<string> {
    const { value, found } = this.value(text);
    return { value: value as string, found }; // of a string it makes a string
  }

  stream(): RedactedStream {
    return new RedactedStream(this.#forms, (leaves) => this.#ranges(leaves));
  }

  /** For each leaf, what is to be taken out of it. */
  #ranges(leaves: readonly Leaf[]): Range[][] {
    const ranges: Range[][] = leaves.map(({ text, kind, isToken }) => {
      if (isToken && text !== "") return [{ start: 0, end: text.length, what: "an OAuth token" }];
      return kind === "number" ? [] : findPatterns(text);
    });
    if (ranges.some((found) => found.some(({ what }) => what === PRIVATE_KEY)))
      for (const lane of lanesOf(leaves, [isString]))
        for (const key of findSplitKeys(lane.text)) addTo(ranges, leaves, lane, key);
    if (!this.#forms.mayBeIn(leaves)) return ranges;
    const lanes = lanesOf(leaves, LANES);
    for (const lane of lanes) for (const match of this.#forms.find(lane.text)) addTo(ranges, leaves, lane, match);
    this.#addHalves(leaves, lanes[0]!, ranges);
    return ranges;
  }

  /** Of a text that was cut in two, whatever stands between its halves. @param all with each leaf in its place */
  #addHalves(leaves: readonly Leaf[], all: Lane, ranges: readonly Range[][]): void {
    const seconds = new Map<string, readonly number[]>();
    for (const { at, rest, what } of this.#forms.beginnings(all.text, (place) => {
      const leaf = all.indexAt(place);
      return all.offsets[leaf]! + leaves[leaf]!.text.length;
    })) {
      let found = seconds.get(rest);
      if (found === undefined) {
        found = leaves.flatMap(({ text }, leaf) => (text.startsWith(rest) ? [leaf] : []));
        seconds.set(rest, found);
      }
      if (found.length === 0) continue;
      const first = all.indexAt(at);
      ranges[first]!.push({ start: at - all.offsets[first]!, end: leaves[first]!.text.length, what });
      for (const leaf of found) ranges[leaf]!.push({ start: 0, end: rest.length, what });
    }
  }
}

/** The items of a stream. An item leaves one later when it ends as a credential begins. */
export class RedactedStream {
  readonly #forms: Forms;
  readonly #ranges: (leaves: readonly Leaf[]) => Range[][];
  /** Of items that have left: what follows may go on with it. */
  #before: readonly Leaf[] = [];
  #held: { readonly item: unknown; readonly leaves: readonly Leaf[] }[] = [];

  constructor(forms: Forms, ranges: (leaves: readonly Leaf[]) => Range[][]) {
    this.#forms = forms;
    this.#ranges = ranges;
  }

  /** What may leave now, in order. */
  push(item: unknown): Redacted[] {
    this.#held.push({ item, leaves: leavesOf(item) });
    return this.#release(false);
  }

  /** The rest. */
  end(): Redacted[] {
    return this.#release(true);
  }

  #release(isLast: boolean): Redacted[] {
    const leaves = [...this.#before, ...this.#held.flatMap((one) => one.leaves)];
    const ranges = this.#ranges(leaves);
    let begun = isLast ? leaves.length : this.#begun(leaves);
    if (this.#held.length > limit("streamItems"))
      // Whoever sends so little at a time is not waited for: what has begun is taken out as if it had ended.
      for (; begun < leaves.length; begun++)
        ranges[begun]!.push({ start: 0, end: leaves[begun]!.text.length, what: "the beginning of a credential" });
    const left: Redacted[] = [];
    let first = this.#before.length;
    for (const { item, leaves: own } of this.#held) {
      const next = first + own.length;
      if (next > begun) break;
      left.push(rebuilt(item, ranges.slice(first, next)));
      first = next;
    }
    this.#held = this.#held.slice(left.length);
    this.#before = this.#forms.end(leaves.slice(0, first));
    return left;
  }

  /** The first leaf of a credential that has begun and not ended. */
  #begun(leaves: readonly Leaf[]): number {
    const begun = lanesOf(leaves, LANES).flatMap((lane) => {
      const at = this.#forms.beginningAt(lane.text);
      return at === undefined ? [] : [lane.members[lane.indexAt(at)]!];
    });
    return Math.min(leaves.length, ...begun);
  }
}

/** Its edges, from `before` to `after`, hold a few bits of it: they go too, where they are in the same field. */
type Match = Range & { readonly before: number; readonly after: number };

type Form = { readonly what: string; readonly isEncoded: boolean };

/** Everything that a credential may look like once escapes are undone, as one expression. */
class Forms {
  readonly #meanings = new Map<string, Form>();
  readonly #pattern: RegExp;
  readonly #beginnings: RegExp;
  readonly #longest: number;
  readonly #shortest: number;

  constructor(credentials: Readonly<Record<string, string>>) {
    for (const [name, value] of Object.entries(credentials))
      for (const [text, isEncoded] of formsOf(value))
        if (!this.#meanings.has(text)) this.#meanings.set(text, { what: `the credential ${name}`, isEncoded });
    const texts = [...this.#meanings.keys()].toSorted((a, b) => b.length - a.length); // the longest one wins
    this.#longest = texts[0]?.length ?? 0;
    this.#shortest = texts.at(-1)?.length ?? Number.POSITIVE_INFINITY;
    this.#pattern = anyOf(texts);
    this.#beginnings = anyOf([...new Set(texts.map((text) => text.slice(0, BEGINNING_CHARS)))]);
  }

  get isEmpty(): boolean {
    return this.#meanings.size === 0;
  }

  /** False for most small answers, at little cost. */
  mayBeIn(leaves: readonly Leaf[]): boolean {
    let chars = 0;
    for (const { text } of leaves) if ((chars += text.length) >= this.#shortest) return true;
    return false;
  }

  find(text: string): Match[] {
    const found: Match[] = [];
    if (text.length < this.#shortest) return found;
    for (const view of viewsOf(text)) {
      const place = (at: number): number => (view.starts === undefined ? at : view.starts[at]!);
      for (const [index, match] of matchesOf(this.#pattern, view.text)) {
        const { what, isEncoded } = this.#meanings.get(match)!;
        const [start, end] = [index, index + match.length];
        const [before, after] = isEncoded ? withEdges(view.text, start, end) : [start, end];
        found.push({ start: place(start), end: place(end), before: place(before), after: place(after), what });
      }
    }
    return found;
  }

  /** Where one begins, with {@link BEGINNING_CHARS} at least, that has not ended at the end of the text. */
  beginningAt(text: string): number | undefined {
    const cut = Math.max(0, text.length - this.#longest * LONGEST_ESCAPE);
    const end = text.slice(cut);
    let first: number | undefined;
    for (const whole of wholeEndsOf(end))
      for (const { text: seen, starts } of viewsOf(whole))
        for (const [index] of matchesOf(this.#beginnings, seen)) {
          const rest = seen.slice(index);
          if (!this.#meanings.keys().some((form) => form.length > rest.length && form.startsWith(rest))) continue;
          first = Math.min(first ?? text.length, cut + (starts === undefined ? index : starts[index]!));
          break;
        }
    return first;
  }

  /** Where a text ends as one begins, and how that goes on; halves of a few characters mean nothing. */
  *beginnings(
    text: string,
    endAfter: (at: number) => number,
  ): Generator<{ readonly at: number; readonly rest: string; readonly what: string }> {
    for (const [at] of matchesOf(this.#beginnings, text)) {
      const end = endAfter(at);
      const length = end - at;
      if (length < BEGINNING_CHARS || length > this.#longest - BEGINNING_CHARS) continue;
      const begun = text.slice(at, end);
      for (const [form, { what }] of this.#meanings)
        if (form.length >= length + BEGINNING_CHARS && form.startsWith(begun))
          yield { at, rest: form.slice(length), what };
    }
  }

  /** The last leaves, as many as a credential may have begun in. */
  end(leaves: readonly Leaf[]): readonly Leaf[] {
    const most = this.#longest * LONGEST_ESCAPE;
    let chars = 0;
    let first = leaves.length;
    while (first > 0 && chars < most && leaves.length - first < most) {
      const { kind, text } = leaves[--first]!;
      if (kind === "string") chars += text.length;
    }
    return leaves.slice(first).map((leaf) => ({ ...leaf, text: leaf.text.slice(-most) }));
  }
}

/** Characters of the longest escape of one: `\U0001f600`. */
const LONGEST_ESCAPE = 10;
const BEGUN_ESCAPE = /(?:%[0-9a-fA-Fu]{0,4}|\\[0-9a-fA-FuUx{]{0,8}|&[#\w]{0,8})$/;
const BEGUN_CHARACTER = /(?:%|\\x)[89a-fA-F][0-9a-fA-F]$/;

/** A text without the escape that begins at its end, and without one to three bytes of a character that does. */
function wholeEndsOf(text: string): Set<string> {
  const ends = [text, text.replace(BEGUN_ESCAPE, "")];
  for (let bytes = 1; bytes < 4; bytes++) ends.push(ends.at(-1)!.replace(BEGUN_CHARACTER, ""));
  return new Set(ends);
}

/** Each with whether it is base64, whose first and last characters hold a few bits of it as well. */
function formsOf(credential: string): (readonly [text: string, isEncoded: boolean])[] {
  const values = new Set([credential, credential.trim(), ...linesOf(credential)]);
  values.delete("");
  const forms = [...values].flatMap((value) => {
    const spellings = new Set([value, JSON.stringify(value).slice(1, -1), encodeURIComponent(value.toWellFormed())]);
    const plain = [value, value.replaceAll(" ", "+"), Array.from(value).toReversed().join(""), reversedUnits(value)];
    if (/^\d+$/.test(value)) plain.push(String(Number(value))); // a number that lost its last digits
    return [
      ...plain.map((text) => [text, false] as const),
      ...[...spellings].flatMap((spelling) => {
        const bytes = Buffer.from(spelling);
        const hex = bytes.toString("hex");
        return [
          ...[hex, hex.toUpperCase()].map((text) => [text, false] as const),
          ...[0, 1, 2].flatMap((before) => {
            const text = base64At(bytes, before);
            return [text, text.replaceAll("+", "-").replaceAll("/", "_")].map((one) => [one, true] as const);
          }),
        ];
      }),
    ];
  });
  return forms;
}

const LEAST_LINE_CHARS = 16;

/** A key file may leak by its lines. Short ones say nothing, and its first and last one are no secret. */
function linesOf(credential: string): string[] {
  const lines = credential.split(/[\r\n]+/).map((line) => line.trim());
  return lines.length < 2 ? [] : lines.filter((line) => line.length >= LEAST_LINE_CHARS && !line.startsWith("-----"));
}

function reversedUnits(text: string): string {
  return text.split("").toReversed().join("");
}

/** The characters of base64 that do not depend on what stands before and after. @param before bytes, modulo 3 */
function base64At(bytes: Uint8Array, before: number): string {
  const text = Buffer.concat([Buffer.alloc(before), bytes]).toString("base64");
  return text.slice(Math.ceil((before * 8) / 6), Math.floor(((before + bytes.length) * 8) / 6));
}

/** With the characters on both sides that hold some of its bits, and what fills up the end. */
function withEdges(text: string, start: number, end: number): readonly [number, number] {
  const isDigit = (at: number): boolean => /[\w+/-]/.test(text[at] ?? "");
  let [first, last] = [start, end];
  if (isDigit(first - 1)) first--;
  if (isDigit(last)) last++;
  while (text[last] === "=") last++;
  return [first, last];
}

function anyOf(texts: readonly string[]): RegExp {
  return texts.length === 0
    ? /(?!)/g
    : new RegExp(texts.map((text) => text.replaceAll(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "g");
}

/** Overlapping ones too. */
function* matchesOf(pattern: RegExp, text: string): Generator<readonly [index: number, match: string]> {
  let from = 0;
  for (;;) {
    pattern.lastIndex = from;
    const match = pattern.exec(text);
    if (match === null) return;
    yield [match.index, match[0]];
    from = match.index + 1;
  }
}

/** Leaves one after the other, as one text. */
type Lane = {
  readonly text: string;
  readonly members: readonly number[];
  readonly offsets: readonly number[];
  /** Index of the member that has this character. */
  readonly indexAt: (at: number) => number;
};

/** To each leaf its part. */
function addTo(ranges: readonly Range[][], leaves: readonly Leaf[], lane: Lane, match: Range & Partial<Match>): void {
  const { start, end, before = start, after = end, what } = match;
  for (let index = lane.indexAt(start); index < lane.members.length && lane.offsets[index]! < end; index++) {
    const [leaf, offset] = [lane.members[index]!, lane.offsets[index]!];
    const range = {
      start: Math.max(0, before - offset),
      end: Math.min(leaves[leaf]!.text.length, after - offset),
      what,
    };
    if (range.start < range.end) ranges[leaf]!.push(range);
  }
}

function lanesOf(leaves: readonly Leaf[], kinds: typeof LANES): Lane[] {
  const lanes: (readonly number[])[] = [];
  for (const isMember of kinds) {
    const members = leaves.flatMap((leaf, index) => (isMember(leaf) ? [index] : []));
    const isSame = (other: readonly number[]): boolean =>
      other.length === members.length && other.every((member, index) => member === members[index]);
    if (members.length > 0 && !lanes.some(isSame)) lanes.push(members);
  }
  return lanes.map((members) => {
    const offsets: number[] = [];
    let length = 0;
    for (const member of members) {
      offsets.push(length);
      length += leaves[member]!.text.length;
    }
    const text = members.map((member) => leaves[member]!.text).join("");
    return { text, members, offsets, indexAt: (at) => lastUpTo(offsets, at) };
  });
}

/** Index of the last number that is not above `most`. */
function lastUpTo(sorted: readonly number[], most: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! <= most) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function leavesOf(value: unknown): Leaf[] {
  const leaves: Leaf[] = [];
  const visit = (one: unknown, isToken: boolean): void => {
    if (typeof one === "string") leaves.push({ text: one, kind: "string", isToken });
    else if (typeof one === "number") leaves.push({ text: String(one), kind: "number", isToken });
    else if (Array.isArray(one)) for (const item of one) visit(item, false);
    else if (typeof one === "object" && one !== null)
      for (const [key, item] of Object.entries(one)) {
        leaves.push({ text: key, kind: "key", isToken: false });
        visit(item, typeof item === "string" && isTokenField(key));
      }
  };
  visit(value, false);
  return leaves;
}

/** @param ranges of each leaf of the value */
function rebuilt(value: unknown, ranges: readonly (readonly Range[])[]): Redacted {
  if (ranges.every((some) => some.length === 0)) return { value, found: [] };
  const found: Found[] = [];
  const path: string[] = [];
  let leaf = 0;
  const tell = (some: readonly Range[]): void => {
    if (found.length >= FOUND_MOST) return;
    const at = path.map(shorten).join(".");
    for (const what of new Set(some.map((range) => range.what))) found.push({ path: at, what });
  };
  const visit = (one: unknown): unknown => {
    if (Array.isArray(one))
      return one.map((item, index) => {
        path.push(String(index));
        const rest = visit(item);
        path.pop();
        return rest;
      });
    if (typeof one === "object" && one !== null) return visitObject(one);
    if (typeof one !== "string" && typeof one !== "number") return one;
    const some = ranges[leaf++]!;
    if (some.length === 0) return one;
    tell(some);
    return typeof one === "string" ? without(one, some) : REDACTED;
  };
  const visitObject = (object: object): unknown => {
    const entries: [string, unknown][] = [];
    const alike = new Map<string, number>();
    for (const [key, item] of Object.entries(object)) {
      const some = ranges[leaf++]!;
      const name = some.length === 0 ? key : nameAmong(object, without(key, some), alike);
      path.push(name);
      if (some.length > 0) tell(some);
      entries.push([name, visit(item)]);
      path.pop();
    }
    return Object.fromEntries(entries); // it defines them, so that `__proto__` is a name as any other
  };
  return { value: visit(value), found };
}

/** Enough to know what leaks. */
const FOUND_MOST = 64;

/** Names that differed in what was taken out of them still differ. */
function nameAmong(object: object, redacted: string, alike: Map<string, number>): string {
  for (;;) {
    const number = (alike.get(redacted) ?? 0) + 1;
    alike.set(redacted, number);
    const name = number === 1 ? redacted : `${redacted} ${number}`;
    if (!Object.hasOwn(object, name)) return name;
  }
}

const shorten = (name: string): string => (name.length > PATH_PART_CHARS ? `${name.slice(0, PATH_PART_CHARS)}…` : name);
const PATH_PART_CHARS = 64;

function without(text: string, ranges: readonly Range[]): string {
  let out = "";
  let end = 0;
  for (const range of ranges.toSorted((a, b) => a.start - b.start)) {
    if (range.start > end || (end === 0 && out === "")) out += text.slice(end, range.start) + REDACTED;
    end = Math.max(end, range.end);
  }
  return out + text.slice(end);
}
