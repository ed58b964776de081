/** What every command gets: global flags, paths, the three streams, and a connection on demand. */
import { fstatSync, writeSync } from "node:fs";
import { unreadableVariables } from "../base/bytes.ts";
import { IpcError } from "../base/errors.ts";
import { resolvePaths, type Paths } from "../base/paths.ts";
import { absolutePath, startingDirectory, workingDirectory } from "../base/working-directory.ts";
import { colours, PLAIN, type Style } from "./style.ts";
import { cleanEnv, connectDaemon } from "../sdk/autostart.ts";
import type { Connection } from "../sdk/connection.ts";

/** Global flags, which may stand before any command. */
export type GlobalFlags = {
  readonly socket?: string;
  readonly json?: boolean;
  readonly color?: string;
  readonly autostart?: boolean;
  readonly quiet?: boolean;
  readonly verbose?: boolean;
};

export class Context {
  readonly flags: GlobalFlags;
  #paths: Paths | undefined;
  /** Styles text for a terminal; leaves it plain if there are no colours. */
  readonly style: Style;
  /** The working directory; undefined if it was deleted. */
  readonly here = workingDirectory();

  constructor(flags: GlobalFlags) {
    this.flags = flags;
    const isColored = !flags.json && wantsColor(flags.color, process.env, isTerminal(1));
    this.style = isColored ? colours() : PLAIN;
  }

  /** @throws IpcError BAD_CONFIG if the configuration cannot be read; `doctor` goes on without it */
  get paths(): Paths {
    return (this.#paths ??= resolvePaths(process.env, process.getuid!(), this.flags.socket));
  }

  /** Where programs start and their files are searched. @throws IpcError USAGE if its name is not UTF-8 */
  get cwd(): string {
    return startingDirectory(this.here);
  }

  /**
   * A path as the user wrote it.
   * @throws IpcError USAGE for a relative path if the working directory was deleted
   */
  resolve(path: string): string {
    return absolutePath(path, this.here);
  }

  /**
   * The environment of a program. Reports variables that cannot be passed on, except those that a shell sets for
   * itself.
   */
  inheritedEnv(): Record<string, string> {
    for (const { quoted } of unreadableVariables(process.env).filter(({ name }) => !/^(OLD)?PWD$/.test(name)))
      this.note(`the variable ${quoted} is not UTF-8: the program is started without it`);
    return cleanEnv(process.env);
  }

  get isJson(): boolean {
    return this.flags.json === true;
  }

  /** Starts a daemon if none answers, unless that is forbidden. @throws IpcError NO_DAEMON */
  async connect(mayStart = true): Promise<Connection> {
    const began = performance.now();
    const connection = await connectDaemon(this.paths, mayStart && this.flags.autostart !== false, writeNotice);
    if (this.flags.verbose)
      this.note(`connected to ${this.paths.socket} in ${(performance.now() - began).toFixed(1)} ms`);
    return connection;
  }

  /** Prints a line of the answer. */
  print(text: string): void {
    writeOut(`${text}\n`);
  }

  /** Prints a line beside the answer; silent with -q. */
  note(text: string): void {
    if (!this.flags.quiet) process.stderr.write(`${text}\n`);
  }

  /** Prints an error on stderr, as text or as JSON. */
  fail(error: Failure): void {
    writeError(error, this.isJson);
  }
}

/** What a daemon reported when it was started. Not silent with -q, because something was broken. */
function writeNotice(text: string): void {
  process.stderr.write(`ipcctl: ${printable(text)}\n`);
}

/** One sentence and the next thing to try; with `--json` the one object that scripts read. */
export function writeError({ code, message, hint, output = [] }: Failure, isJson: boolean): void {
  const more = output.length === 0 ? {} : { output };
  const text = isJson
    ? JSON.stringify({ error: { code, message, ...(hint === undefined ? {} : { hint }), ...more } })
    : [
        `ipcctl: ${printable(message)}`,
        ...output.map((line) => `  | ${printable(line)}`),
        ...(hint === undefined ? [] : [`  ${printable(hint)}`]),
      ].join("\n");
  process.stderr.write(`${text}\n`);
}

export type Failure = {
  readonly code: string;
  readonly message: string;
  readonly hint?: string;
  /** The last lines that the failed process printed. */
  readonly output?: readonly string[];
};

/**
 * Creating Node's `process.stdout` takes longer than the whole of `status`; for most commands plain descriptors
 * suffice.
 */
export function writeOut(text: string): void {
  let bytes: Uint8Array = Buffer.from(text);
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(1, bytes));
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "EPIPE") process.exit(0); // the reader is gone, so there is nobody to tell
      if (code !== "EAGAIN")
        throw new IpcError("FAILED", `writing the answer: ${(error as Error).message}`, { cause: error });
      Bun.sleepSync(1); // the pipe was left non-blocking, and it is full
    }
  }
}

/** A pseudo-terminal without a size says 0. */
export function terminalWidth(): number {
  return process.stdout.columns || 80;
}

/** A character device whose number belongs to a terminal (console, pty, serial), unlike /dev/null. */
export function isTerminal(fd: number): boolean {
  const stat = fstatSync(fd);
  const major = (stat.rdev >> 8) & 0xfff;
  return stat.isCharacterDevice() && (major === 4 || major === 5 || (major >= 136 && major <= 143) || major === 204);
}

/** Whether the output for these arguments may be coloured. They are not parsed yet. */
export function mayHaveColour(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  isTerminal: boolean,
): boolean {
  return wantsColor(undefined, env, isTerminal) || args.some((arg) => arg.startsWith("--color"));
}

/** `--color` > FORCE_COLOR > NO_COLOR > TERM=dumb > a terminal. */
function wantsColor(
  flag: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
  isTerminal: boolean,
): boolean {
  if (flag === "always") return true;
  if (flag === "never") return false;
  if (env.FORCE_COLOR) return env.FORCE_COLOR !== "0" && env.FORCE_COLOR !== "false";
  if (env.NO_COLOR) return false;
  return env.TERM !== "dumb" && isTerminal;
}

/**
 * A value as JSON that is harmless to a terminal: JSON itself leaves the control characters U+007F to U+009F unescaped,
 * and those that reorder or hide what stands beside them.
 */
export function jsonText(value: unknown, replacer?: (key: string, value: unknown) => unknown): string {
  const escaped = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value, replacer).replace(/[\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/gu, (char) =>
    char.split("").map(escaped).join(""),
  );
}

/** Names and fields come from users: what controls a terminal, reorders text or is invisible is shown, not obeyed. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/gu, (char) => {
    const code = char.codePointAt(0)!;
    return code <= 0xff ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
  });
}
