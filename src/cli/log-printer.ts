/** How lines of logs are shown: those that wait for their newline too, in their place, to be gone on with. */
import type { LogLine } from "../logs/cri.ts";
import { isTerminal, jsonText, printable, type Context } from "./context.ts";
import { endOfVisible, visible } from "./visible.ts";

export type Source = { readonly name: string; readonly dir: string };
export type SourcedLine = { readonly source: Source; readonly line: LogLine };

const COLORS = [36, 35, 33, 32, 34, 31];
const CARRIAGE_RETURN = 0x0d;
const NEWLINE = Buffer.from("\n");
const NOTHING = new Uint8Array(0);
const ESCAPE = 0x1b;
const RESET = Buffer.from("\u001b[0m");

/** What of a line that is not finished was shown. */
type Shown = {
  /** So many bytes of it. */
  bytes: number;
  /** Where it is begun again when something else was printed in between: behind the last return of the carriage. */
  from: number;
};

export class LogPrinter {
  readonly #isJson: boolean;
  readonly #hasTimes: boolean;
  readonly #isOnTerminal = isTerminal(1);
  readonly #nameOf: (source: Source) => Uint8Array;
  readonly #shown = new Map<string, Shown>();
  /** The key of the line in which the output stands. */
  #open: string | undefined;

  constructor(context: Context, sources: readonly Source[], hasTimes: boolean) {
    this.#isJson = context.isJson;
    this.#hasTimes = hasTimes;
    const width = Math.max(...sources.map(({ name }) => name.length), 0);
    const names = new Map(
      sources.map((source, index) => {
        const name = printable(source.name).padEnd(width);
        const text = sources.length > 1 ? `${context.style(COLORS[index % COLORS.length]!, name)} | ` : "";
        return [source, Buffer.from(text)];
      }),
    );
    this.#nameOf = (source) =>
      names.get(source) ?? Buffer.from(sources.length > 1 ? `${printable(source.name).padEnd(width)} | ` : ""); // came later
  }

  lines(lines: readonly SourcedLine[]): Uint8Array {
    return Buffer.concat(lines.flatMap(({ source, line }) => this.#show(source, line, true)));
  }

  /** What waits for its newline, as far as it was not shown. */
  unfinished(lines: readonly SourcedLine[]): Uint8Array {
    return Buffer.concat(lines.flatMap(({ source, line }) => this.#show(source, line, false)));
  }

  /** Ends the line in which the output stands. */
  end(): Uint8Array {
    if (this.#open === undefined) return NOTHING;
    this.#open = undefined;
    return NEWLINE;
  }

  #show(source: Source, line: LogLine, isFinished: boolean): Uint8Array[] {
    return this.#isJson ? this.#showObject(source, line, isFinished) : this.#showText(source, line, isFinished);
  }

  /** Pieces of a line are objects of their own: together they are the line. */
  #showObject(source: Source, line: LogLine, isFinished: boolean): Uint8Array[] {
    const key = keyOf(source, line);
    const from = this.#shown.get(key)?.bytes ?? 0;
    const to = isFinished ? line.text.length : endOfCharacters(line.text);
    if (isFinished) this.#shown.delete(key);
    else if (to <= from) return [];
    else this.#shown.set(key, { bytes: to, from: to });
    const { timestamp, stream } = line;
    const text = Buffer.from(line.text.subarray(from, to)).toString("utf8");
    const object = { name: source.name, timestamp, stream, line: text, ...(isFinished ? {} : { partial: true }) };
    return [Buffer.from(`${jsonText(object)}\n`)];
  }

  #showText(source: Source, line: LogLine, isFinished: boolean): Uint8Array[] {
    const key = keyOf(source, line);
    const shown = this.#shown.get(key);
    const end = isFinished ? line.text.length : this.#endOfUnfinished(line.text);
    if (!isFinished && end <= (shown?.bytes ?? 0)) return [];
    const prefix = this.#prefix(source, line);
    const isOpen = this.#open === key;
    const start = isOpen ? shown!.bytes : (shown?.from ?? 0);
    const out = isOpen ? [] : [this.end(), prefix];
    const text = line.text.subarray(start, end);
    out.push(this.#returning(this.#isOnTerminal ? visible(text) : text, prefix, !isOpen));
    if (isFinished) {
      if (this.#isOnTerminal && prefix.length > 0 && line.text.includes(ESCAPE)) out.push(RESET); // the next name is not its to colour
      out.push(NEWLINE);
      this.#shown.delete(key);
      this.#open = undefined;
    } else {
      this.#shown.set(key, { bytes: end, from: line.text.lastIndexOf(CARRIAGE_RETURN, end - 1) + 1 });
      this.#open = key;
    }
    return out;
  }

  /** A return at the end may be that of a newline to come; on a terminal a character and a colour are shown whole. */
  #endOfUnfinished(text: Uint8Array): number {
    const end = this.#isOnTerminal ? endOfVisible(text.subarray(0, endOfCharacters(text))) : text.length;
    return text[end - 1] === CARRIAGE_RETURN ? end - 1 : end;
  }

  #prefix(source: Source, { timestamp }: LogLine): Uint8Array {
    const name = this.#nameOf(source);
    return this.#hasTimes ? Buffer.concat([Buffer.from(`${timestamp} `), name]) : name;
  }

  /**
   * What a return of the carriage begins is over what was there on a terminal, and a line of its own elsewhere; one before the newline
   * is its own.
   */
  #returning(text: Uint8Array, prefix: Uint8Array, isAtStart: boolean): Uint8Array {
    const isReturn = (at: number): boolean => at >= 0 && at < text.length - 1;
    if (!isReturn(text.indexOf(CARRIAGE_RETURN))) return text;
    const between = Buffer.concat([this.#isOnTerminal ? Buffer.of(CARRIAGE_RETURN) : NEWLINE, prefix]);
    const parts: Uint8Array[] = [];
    let at = 0;
    for (let next = text.indexOf(CARRIAGE_RETURN); isReturn(next); next = text.indexOf(CARRIAGE_RETURN, at)) {
      const isEmpty = isAtStart && next === 0; // nothing stands in the line yet
      parts.push(text.subarray(at, next), isEmpty && !this.#isOnTerminal ? NOTHING : between);
      at = next + 1;
    }
    return Buffer.concat([...parts, text.subarray(at)]);
  }
}

function keyOf(source: Source, { stream }: LogLine): string {
  return `${stream} ${source.name}`;
}

/** Without the beginning of a character of UTF-8 whose end is yet to come. */
function endOfCharacters(text: Uint8Array): number {
  for (let back = 1; back <= 3 && back <= text.length; back++) {
    const byte = text.at(-back)!;
    if (byte < 0x80) return text.length;
    if (byte < 0xc0) continue; // within a character
    const length = byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    return length > back ? text.length - back : text.length;
  }
  return text.length;
}
