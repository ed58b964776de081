/** Takes a secret from where nobody else sees it: typed without echo, or from a pipe, a file or a variable. */
import { closeSync, openSync, readSync } from "node:fs";
import { unreadableVariables } from "../base/bytes.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { isTerminal, type Context } from "./context.ts";

export type SecretFlags = { fromFile?: string; fromEnv?: string };

/** Undefined if the user gave up. @throws IpcError that tells nothing of what was read */
export type SecretSource = (what: string) => Promise<string | undefined>;

/**
 * To be called before anything is started, which would inherit the variable: a daemon would, and with it its workers.
 */
export function secretSource(context: Context, { fromFile, fromEnv }: SecretFlags): SecretSource {
  if (fromFile !== undefined && fromEnv !== undefined)
    throw new IpcError("USAGE", "--from-file and --from-env cannot be used together");
  if (fromEnv !== undefined) {
    const value = takeVariable(fromEnv);
    return () => Promise.resolve(value);
  }
  return async (what) => {
    if (fromFile !== undefined) return readFrom(context.resolve(fromFile), `the file ${fromFile}`);
    return isTerminal(0) ? await ask(`${what} (not shown): `) : readFrom(0, "stdin");
  };
}

/** The variable is not named in errors: who writes `--from-env $TOKEN` has given its value. */
function takeVariable(name: string): string {
  if (unreadableVariables(process.env).some((one) => one.name === name))
    throw new IpcError("USAGE", "--from-env: the variable is not UTF-8");
  const value = process.env[name];
  delete process.env[name];
  if (value !== undefined) return value;
  throw new IpcError("USAGE", "--from-env: there is no such variable", {
    hint: "give its name, not its value: --from-env TOKEN",
  });
}

/** Without the newline at its end, which editors and `echo` add. */
function readFrom(source: string | number, what: string): string {
  const most = limit("credentialBytes") + "\r\n".length;
  const bytes = Buffer.alloc(most + 1); // one more shows that it is longer
  let size = 0;
  let fd = source;
  try {
    fd = typeof fd === "string" ? openSync(fd, "r") : fd;
    for (let count = -1; count !== 0 && size < bytes.length; size += count) count = readSome(fd, bytes.subarray(size));
  } catch (error) {
    throw new IpcError("USAGE", `${what} cannot be read: ${(error as Error).message}`, { cause: error });
  } finally {
    if (typeof source === "string" && typeof fd === "number") closeSync(fd);
  }
  if (size > most) throw new IpcError("LIMIT", `${what} has more than ${limit("credentialBytes")} bytes`);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
      .decode(bytes.subarray(0, size))
      .replace(/\r?\n$/, "");
  } catch {
    throw new IpcError("USAGE", `${what} is not UTF-8`, { hint: "store it in an encoding of text, such as base64" });
  }
}

/** Waits for what comes. @returns the number of bytes, 0 at the end */
export function readSome(fd: number, into: Uint8Array): number {
  for (;;) {
    try {
      return readSync(fd, into);
    } catch (error) {
      if ((error as { code?: string }).code !== "EAGAIN") throw error;
      Bun.sleepSync(5); // the pipe was left non-blocking, and nothing is there yet
    }
  }
}

const [ENTER, END, CANCEL, DELETE_ALL] = [/[\r\n]/, "\x04", "\x03", "\x15"];
/** What comes so soon behind a newline was pasted with it. */
const PASTE_MS = 50;

/** One line. All that is pasted is read, so that what stands behind a newline is no command for the shell. */
async function ask(question: string): Promise<string | undefined> {
  const { stdin } = process;
  const line = Promise.withResolvers<string | undefined>();
  let typed = "";
  let rest: string | undefined;
  const take = (chunk: string): void => {
    if (rest !== undefined) rest += chunk;
    if (rest !== undefined || chunk.startsWith("\x1b")) return; // an arrow, or another key that is no character
    const end = chunk.search(ENTER);
    for (const char of end < 0 ? chunk : chunk.slice(0, end)) {
      if (char === CANCEL || (char === END && typed === "")) return line.resolve(undefined);
      if (char === DELETE_ALL) typed = "";
      else if (char === "\x7f" || char === "\b") typed = Array.from(typed).slice(0, -1).join("");
      else if (char >= " ") typed += char;
    }
    if (end < 0) return;
    rest = chunk.slice(end);
    setTimeout(() => line.resolve(typed), PASTE_MS);
  };
  const leave = (): void => line.resolve(undefined);
  const signals = ["SIGTERM", "SIGHUP", "SIGINT"] as const;
  for (const signal of signals) process.on(signal, leave);
  stdin.setRawMode(true); // before anybody is asked: what comes earlier would be shown
  stdin.setEncoding("utf8").on("data", take).on("end", leave);
  process.stderr.write(question);
  try {
    const answer = await line.promise;
    if (answer === undefined || (rest ?? "").trim() === "") return answer;
    throw new IpcError("USAGE", "several lines were pasted, and a terminal gives one", {
      hint: "use --from-file FILE, or a pipe",
    });
  } finally {
    for (const signal of signals) process.off(signal, leave);
    stdin.setRawMode(false);
    stdin.pause();
    process.stderr.write("\n");
  }
}
