/** From PostgreSQL's text of a value to JSON: exact, or the text itself. */
import { bytesOf, type Cell } from "../../src/sql/answer.ts";

type Reader = (text: string) => Cell;

const integer: Reader = Number;
/** NaN and the infinities stay text: JSON has no such numbers. */
const float: Reader = (text) => {
  const value = Number(text);
  return Number.isFinite(value) ? value : text;
};
const boolean: Reader = (text) => text === "t";
const bytes: Reader = (text) => (text.startsWith("\\x") ? bytesOf(Buffer.from(text.slice(2), "hex")) : text);
/** `2026-01-02 03:04:05.678901+00` → `2026-01-02T03:04:05.678901+00:00`; infinity and years before Christ stay. */
const time: Reader = (text) => {
  const [, day, clock, zone = ""] = /^(\d{4,6}-\d\d-\d\d) ([\d:.]+)([+-][\d:]+)?$/.exec(text) ?? [];
  return day === undefined ? text : `${day}T${clock}${zone.length === 3 ? `${zone}:00` : zone}`;
};
const plain: Reader = (text) => text;

/**
 * By the numbers that PostgreSQL's own types have. Of all others the text is told, as of `int8` and `numeric`, which
 * have more digits than a number of JSON keeps, and of `json`, whose numbers may have as many.
 */
const READERS: Readonly<Record<number, Reader>> = {
  ...{ 16: boolean, 17: bytes, 21: integer, 23: integer, 26: integer, 700: float, 701: float },
  ...{ 1114: time, 1184: time },
};

/** Arrays of which the elements are known, by the number of the element's type: others stay text. */
const ELEMENTS: Readonly<Record<number, number>> = {
  ...{ 1000: 16, 1001: 17, 1005: 21, 1007: 23, 1028: 26, 1021: 700, 1022: 701, 1115: 1114, 1185: 1184 },
  ...{ 1003: 19, 1009: 25, 1014: 1042, 1015: 1043, 1016: 20, 1182: 1082, 1231: 1700, 2951: 2950, 199: 114, 3807: 3802 },
};

export function cellOf(type: number, raw: Buffer | null): Cell {
  if (raw === null) return null;
  const text = raw.toString();
  const element = ELEMENTS[type];
  if (element === undefined) return (READERS[type] ?? plain)(text);
  return arrayOf(text, READERS[element] ?? plain) ?? text;
}

/** `{1,NULL,"a \"b\""}`, also nested. Undefined for one that does not count from 1, whose bounds stand before it. */
function arrayOf(text: string, read: Reader): Cell[] | undefined {
  const open: Cell[][] = [];
  for (const [, bracket, quoted, bare] of text.matchAll(/([{}])|"((?:[^"\\]|\\[^])*)"|([^{},"]+)/g)) {
    const list = open.at(-1);
    if (bracket === "{") {
      const inner: Cell[] = [];
      list?.push(inner);
      open.push(inner);
    } else if (list === undefined) return undefined;
    else if (bracket === "}") {
      if (open.length === 1) return list;
      open.pop();
    } else if (quoted !== undefined) list.push(read(quoted.replaceAll(/\\([^])/g, "$1")));
    else list.push(bare === "NULL" ? null : read(bare!));
  }
  return undefined;
}

/** A parameter as PostgreSQL reads it: which type it has, the statement says. */
export function textOf(param: Param): string | null {
  if (param === null) return null;
  return Array.isArray(param) ? arrayText(param) : String(param);
}

type Param = null | boolean | number | string | readonly Param[];

function arrayText(list: readonly Param[]): string {
  const texts = list.map((item) => {
    if (item === null) return "NULL";
    return Array.isArray(item) ? arrayText(item) : `"${String(item).replaceAll(/["\\]/g, "\\$&")}"`;
  });
  return `{${texts.join(",")}}`;
}
