/**
 * A text as those read it who undo an encoding: URL, JSON and other languages' literals, HTML, lines that were wrapped.
 * What is sought can so be a plain text, although an encoder chooses freely what it escapes and how. Each view knows
 * where its characters are in the text itself.
 */

export type View = {
  readonly text: string;
  /** For each character of `text` and for its end, where it begins in what is viewed; absent if it is that itself. */
  readonly starts?: Uint32Array;
};

/** Encodings on top of each other that are undone. */
const LAYERS = 2;

type Decoder = {
  /** Without it there is nothing to undo. */
  readonly mark: RegExp;
  readonly pattern: RegExp;
  readonly decode: (match: string) => string | readonly Piece[];
};
/** Characters, and how many of the encoded ones they stand for. */
type Piece = readonly [text: string, length: number];

const PERCENT: Decoder = {
  mark: /%[0-9a-fA-Fu]/,
  pattern: /(?:%[0-9a-fA-F]{2})+|%u[0-9a-fA-F]{4}/g,
  decode: (match) => (match[1] === "u" ? fromHex(match.slice(2)) : fromBytes(match.replaceAll("%", ""), 3)),
};
const LITERALS: Record<string, string> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", 0: "\0" };
const BACKSLASH: Decoder = {
  mark: /\\/,
  pattern: /\\u\{[0-9a-fA-F]{1,6}\}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|(?:\\x[0-9a-fA-F]{2})+|\\[^uUx]/g,
  decode: (match) => {
    const kind = match[1]!;
    if (kind === "x") return fromBytes(match.replaceAll("\\x", ""), 4);
    if (kind === "u" || kind === "U") return fromHex(match.slice(2).replace(/[{}]/g, ""));
    return LITERALS[kind] ?? kind;
  },
};
const NAMES: Record<string, string> = {
  ...{
    amp: "&",
    lt: "<",
    gt: ">",
    quot: '"',
    apos: "'",
    nbsp: "\u00a0",
    Tab: "\t",
    NewLine: "\n",
    excl: "!",
    num: "#",
  },
  ...{ dollar: "$", percnt: "%", lpar: "(", rpar: ")", ast: "*", plus: "+", comma: ",", period: ".", sol: "/" },
  ...{ colon: ":", semi: ";", equals: "=", quest: "?", commat: "@", lsqb: "[", lbrack: "[", bsol: "\\", rsqb: "]" },
  ...{ rbrack: "]", Hat: "^", lowbar: "_", grave: "`", lcub: "{", lbrace: "{", verbar: "|", vert: "|", rcub: "}" },
  ...{ rbrace: "}", hyphen: "-", dash: "-", tilde: "~" },
};
const ENTITIES: Decoder = {
  mark: /&[#a-zA-Z]/,
  pattern: /&#[0-9]{1,7};?|&#[xX][0-9a-fA-F]{1,6};?|&[a-zA-Z]{2,8};/g,
  decode: (match) => {
    const body = match.replace(/[&;]/g, "");
    if (/^#x/i.test(body)) return fromHex(body.slice(2));
    if (body.startsWith("#")) return fromCode(Number(body.slice(1)));
    return NAMES[body] ?? match;
  },
};
const WRAPPED: Decoder = { mark: /[\r\n]/, pattern: /[\r\n]+[ \t]*/g, decode: () => "" };

/** The text itself first. */
export function* viewsOf(text: string): Generator<View> {
  yield* decoded({ text }, LAYERS);
}

function* decoded(view: View, layers: number): Generator<View> {
  yield view;
  const unwrapped = undo(WRAPPED, view);
  if (unwrapped !== undefined) yield unwrapped;
  if (layers === 0) return;
  for (const decoder of [PERCENT, BACKSLASH, ENTITIES]) {
    const next = undo(decoder, view);
    if (next !== undefined) yield* decoded(next, layers - 1);
  }
}

/** Undefined where it changes nothing. */
function undo({ mark, pattern, decode }: Decoder, { text, starts: below }: View): View | undefined {
  if (!mark.test(text)) return undefined;
  let out = "";
  let copied = 0;
  const starts = new Uint32Array(text.length + 1); // an encoding never shortens
  const place = (at: number): number => (below === undefined ? at : below[at]!);
  const copy = (end: number): void => {
    for (let at = copied; at < end; at++) starts[out.length + at - copied] = place(at);
    out += text.slice(copied, end);
  };
  for (const match of text.matchAll(pattern)) {
    const said = decode(match[0]);
    if (said === match[0]) continue;
    copy(match.index);
    let at = match.index;
    for (const [piece, length] of typeof said === "string" ? [[said, match[0].length] as const] : said) {
      starts.fill(place(at), out.length, out.length + piece.length);
      out += piece;
      at += length;
    }
    copied = match.index + match[0].length;
  }
  if (copied === 0) return undefined;
  copy(text.length);
  starts[out.length] = place(text.length);
  return { text: out, starts };
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** First bytes of characters of two bytes, three, and four. */
const LEADS = [0xc0, 0xe0, 0xf0];

/** Bytes of UTF-8, each character by itself; what is none is one of latin-1. @param width characters for each byte */
function fromBytes(hex: string, width: number): Piece[] {
  const bytes = Buffer.from(hex, "hex");
  const pieces: Piece[] = [];
  for (let at = 0; at < bytes.length;) {
    const first = bytes[at]!;
    const length = 1 + LEADS.filter((lead) => first >= lead).length;
    const [text, taken] = characterOf(bytes.subarray(at, at + length)) ?? [String.fromCharCode(first), 1];
    pieces.push([text, taken * width]);
    at += taken;
  }
  return pieces;
}

function characterOf(bytes: Uint8Array): readonly [string, number] | undefined {
  try {
    return [utf8.decode(bytes), bytes.length];
  } catch {
    return undefined;
  }
}

function fromHex(digits: string): string {
  return fromCode(Number(`0x${digits}`));
}

function fromCode(code: number): string {
  return code <= 0x10ffff ? String.fromCodePoint(code) : "";
}
