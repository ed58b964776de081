/** Cases of a file of Python, each in a process of its own, as named tests. */
import { expect, test } from "bun:test";
import { dirname, join } from "node:path";
import { installNode } from "../node.ts";

export const node = await installNode();
/** With the Node that inspectors need. */
export const environment = {
  ...process.env,
  PYTHONPATH: join(import.meta.dir, "../../python"),
  PATH: `${node === undefined ? "" : `${dirname(node)}:`}${process.env.PATH}`,
};
const DEADLINE_MS = 40_000;

/** @param file of this folder, which ends with `cases.main()` */
export function testCases(file: string, python = "python3"): void {
  const command = [python, join(import.meta.dir, file)];
  for (const [name, title] of listed(command))
    test(title, () => run([...command, "run", name], environment), DEADLINE_MS);
}

/** The same on V8, of those with such a name. */
export function testCasesOnV8(file: string, names: RegExp): void {
  const command = ["python3", join(import.meta.dir, file)];
  const env = { ...environment, IPCCTL_JS_ENGINE: "v8" };
  for (const [name, title] of listed(command).filter(([name]) => names.test(name)))
    test(`v8: ${title}`, () => run([...command, "run", name], env), DEADLINE_MS);
}

function listed(command: readonly string[]): [name: string, title: string][] {
  const { stdout } = Bun.spawnSync([...command, "list"], { env: environment, stderr: "inherit" });
  return JSON.parse(stdout.toString()) as [string, string][];
}

async function run(command: string[], env: Record<string, string | undefined>): Promise<void> {
  const child = Bun.spawn(command, {
    env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: DEADLINE_MS - 5000,
  });
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  const code = await child.exited;
  const said = output.trim().split("\n").at(-1) ?? "";
  const { seen } = said.startsWith("{") ? (JSON.parse(said) as { seen: string }) : { seen: "nothing" };
  if (seen !== "holds" || code !== 0) console.log(errors);
  expect({ seen, code, signal: child.signalCode }).toEqual({ seen: "holds", code: 0, signal: null });
}
