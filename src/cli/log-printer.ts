/** How log lines are shown. Lines without a newline yet are shown too, and continued later in their place. */
import { endOfCharacters, textOf, type LogPiece } from "../logs/cri.ts";
import { isTerminal, jsonText, printable, type Context } from "./context.ts";
import { endOfVisible, visible } from "./visible.ts";

type Source = { readonly name: string };
type SourcedPiece = { readonly source: Source; readonly piece: LogPiece };

const COLORS = ["cyan", "magenta", "yellow", "green", "blue", "red"] as const;
const CARRIAGE_RETURN = 0x0d;
const NEWLINE = Buffer.from("\n");
const NOTHING = new Uint8Array(0);
const ESCAPE = 0x1b;
const RESET = Buffer.from("\u001b[0m");

/** The part of an unfinished line that was shown. */
type Shown = {
  /** Bytes shown. */
  readonly bytes: number;
  /** Where to start again if something else was printed in between: behind the last carriage return. */
  readonly from: number;
  readonly hasEscape: boolean;
};
const NOT_SHOWN: Shown = { bytes: 0, from: 0, hasEscape: false };

export class LogPrinter {
  readonly #isJson: boolean;
  readonly #hasTimes: boolean;
  readonly #isRaw: boolean;
  readonly #isOnTerminal: boolean;
  readonly #nameOf: (source: Source) => Uint8Array;
  readonly #shown = new Map<string, Shown>();
  /** The key of the line that the cursor is in. */
  #open: string | undefined;

  /** @param isRaw prints the bytes unchanged, also to a terminal. @param fd where they are printed */
  constructor(context: Context, sources: readonly Source[], hasTimes: boolean, isRaw = false, fd = 1) {
    this.#isOnTerminal = isTerminal(fd);
    this.#isJson = context.isJson;
    this.#isRaw = isRaw;
    this.#hasTimes = hasTimes;
    const width = Math.max(...sources.map(({ name }) => name.length), 0);
    const names = new Map(
      sources.map((source, index) => {
        const name = printable(source.name).padEnd(width);
        const text = sources.length > 1 ? `${context.style[COLORS[index % COLORS.length]!](name)} | ` : "";
        return [source, Buffer.from(text)];
      }),
    );
    this.#nameOf = (source) =>
      // A source that was added later.
      names.get(source) ?? Buffer.from(sources.length > 1 ? `${printable(source.name).padEnd(width)} | ` : "");
  }

  /** Lines, and pieces of long lines, each exactly once. */
  lines(pieces: readonly SourcedPiece[]): Uint8Array {
    return Buffer.concat(pieces.flatMap(({ source, piece }) => this.#show(source, piece, true)));
  }

  /** Lines without a newline, as far as they were not shown; they come again when there is more of them. */
  unfinished(pieces: readonly SourcedPiece[]): Uint8Array {
    return Buffer.concat(pieces.flatMap(({ source, piece }) => this.#show(source, piece, false)));
  }

  /** Ends the line that the cursor is in. */
  end(): Uint8Array {
    if (this.#open === undefined) return NOTHING;
    this.#open = undefined;
    return NEWLINE;
  }

  #show(source: Source, piece: LogPiece, isLast: boolean): Uint8Array[] {
    return this.#isJson ? this.#showObject(source, piece, isLast) : this.#showText(source, piece, isLast);
  }

  /** Each piece of a line is an object of its own; together they are the line. */
  #showObject(source: Source, piece: LogPiece, isLast: boolean): Uint8Array[] {
    const key = keyOf(source, piece);
    const { timestamp, stream, isEnd } = piece;
    const start = Math.max(0, (this.#shown.get(key)?.bytes ?? 0) - piece.from);
    const end = isLast ? piece.text.length : endOfCharacters(piece.text);
    if (!isEnd && end <= start) return [];
    this.#remember(key, piece, end, isLast);
    const text = textOf(piece.text.subarray(start, end));
    const object = { name: source.name, timestamp, stream, line: text, ...(isEnd ? {} : { partial: true }) };
    return [Buffer.from(`${jsonText(object)}\n`)];
  }

  #showText(source: Source, piece: LogPiece, isLast: boolean): Uint8Array[] {
    const key = keyOf(source, piece);
    const shown = this.#shown.get(key) ?? NOT_SHOWN;
    const end = isLast ? piece.text.length : this.#endOfUnfinished(piece.text);
    if (!piece.isEnd && piece.from + end <= shown.bytes) return [];
    const prefix = this.#prefix(source, piece);
    const isOpen = this.#open === key;
    const start = Math.max(0, (isOpen ? shown.bytes : shown.from) - piece.from);
    const out = isOpen ? [] : [this.end(), prefix];
    const text = piece.text.subarray(start, end);
    out.push(this.#returning(this.#isOnTerminal && !this.#isRaw ? visible(text) : text, prefix, !isOpen));
    const { hasEscape } = this.#remember(key, piece, end, isLast);
    if (piece.isEnd) {
      // Its colours must not reach the next name.
      if (this.#isOnTerminal && prefix.length > 0 && hasEscape) out.push(RESET);
      out.push(NEWLINE);
    }
    this.#open = piece.isEnd ? undefined : key;
    return out;
  }

  #remember(key: string, { text, from, isEnd }: LogPiece, end: number, isLast: boolean): Shown {
    const begin = isLast ? end : text.lastIndexOf(CARRIAGE_RETURN, end - 1) + 1;
    const hasEscape = this.#shown.get(key)?.hasEscape === true || text.includes(ESCAPE);
    const shown = { bytes: from + end, from: from + begin, hasEscape };
    if (isEnd) this.#shown.delete(key);
    else this.#shown.set(key, shown);
    return shown;
  }

  /**
   * A carriage return at the end may belong to a newline to come; on a terminal, characters and colours are shown
   * whole.
   */
  #endOfUnfinished(text: Uint8Array): number {
    const end = this.#isOnTerminal ? endOfVisible(text.subarray(0, endOfCharacters(text))) : text.length;
    return text[end - 1] === CARRIAGE_RETURN ? end - 1 : end;
  }

  #prefix(source: Source, { timestamp }: LogPiece): Uint8Array {
    const name = this.#nameOf(source);
    return this.#hasTimes ? Buffer.concat([Buffer.from(`${timestamp} `), name]) : name;
  }

  /**
   * On a terminal, text behind a carriage return overwrites the line; elsewhere it becomes a line of its own. A
   * carriage return before the newline belongs to it.
   */
  #returning(text: Uint8Array, prefix: Uint8Array, isAtStart: boolean): Uint8Array {
    const isReturn = (at: number): boolean => at >= 0 && at < text.length - 1;
    if (!isReturn(text.indexOf(CARRIAGE_RETURN))) return text;
    const between = Buffer.concat([this.#isOnTerminal ? Buffer.of(CARRIAGE_RETURN) : NEWLINE, prefix]);
    const parts: Uint8Array[] = [];
    let at = 0;
    for (let next = text.indexOf(CARRIAGE_RETURN); isReturn(next); next = text.indexOf(CARRIAGE_RETURN, at)) {
      const isEmpty = isAtStart && next === 0; // the line is still empty
      parts.push(text.subarray(at, next), isEmpty && !this.#isOnTerminal ? NOTHING : between);
      at = next + 1;
    }
    return Buffer.concat([...parts, text.subarray(at)]);
  }
}

function keyOf(source: Source, { stream }: LogPiece): string {
  return `${stream} ${source.name}`;
}
