/** Files that are there, and that a worker ended over because its policy does not show them: it saw an errno that does not tell. */
import { appendFileSync, existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { shellWord } from "../base/shell-words.ts";
import { audit } from "../launch/audit.ts";
import { readLastLines } from "../logs/tail.ts";
import { isBelow } from "../sandbox/mounts.ts";
import type { Policy } from "../sandbox/policy.ts";

/** What Python says last of an error that nobody caught: ENOENT, EACCES, EROFS. */
const LAST_WORD = /^(?:FileNotFoundError|PermissionError|OSError): \[Errno (2|13|30)\] [^:']+: '((?:[^'\\]|\\.)+)'/;
const EROFS = 30;
const LINE_BYTES_MAX = 8192;

export type HiddenFile = { readonly path: string; readonly flag: string };

/** @param line of the worker's stderr: it is shown, and nothing is done about it */
export function hiddenFile(line: string, cwd: string, { files }: Policy): HiddenFile | undefined {
  const [, errno, quoted] = LAST_WORD.exec(line) ?? [];
  if (quoted === undefined) return undefined;
  const path = resolve(cwd, quoted.replaceAll(/\\(['\\])/g, "$1"));
  const isWriting = Number(errno) === EROFS;
  const wanted = isWriting && !existsSync(path) ? dirname(path) : path;
  const granted = isWriting ? files.write : [...files.read, ...files.write];
  if (!existsSync(wanted) || granted.some((one) => isBelow(wanted, one.path))) return undefined;
  return { path, flag: `--allow-${isWriting ? "write" : "read"} ${shellWord(wanted)}` };
}

/** Adds it to what was denied in this run, and to the audit. */
export async function noteHiddenFile(
  worker: { readonly id: string; readonly dir: string; readonly logDir: string; readonly cwd: string },
  policy: Policy,
  auditLog: string,
  isOver: () => boolean,
): Promise<void> {
  const { lines } = await readLastLines(worker.logDir, 1, { stream: "stderr", lineBytesMax: LINE_BYTES_MAX });
  const text = lines.map((line) => Buffer.from(line.text).toString("utf8")).join("");
  const found = hiddenFile(text, worker.cwd, policy);
  if (found === undefined || /[\t\n]/.test(found.path) || !isOver()) return;
  appendFileSync(join(worker.dir, "denied"), `file ${found.path}\t${found.flag}\n`, { mode: 0o600 });
  audit(auditLog, {
    worker: worker.id,
    event: "file",
    path: found.path,
    verdict: "denied",
    reason: "the policy does not grant it",
  });
}
