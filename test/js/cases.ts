/** Cases of a file of Python, each in a process of its own, as named tests. */
import { expect, test } from "bun:test";
import { dirname, join } from "node:path";
import { installNode } from "../node.ts";

const node = await installNode();
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
  const listed = Bun.spawnSync([...command, "list"], { env: environment, stderr: "inherit" });
  for (const [name, title] of JSON.parse(listed.stdout.toString()) as [string, string][])
    test(title, () => run([...command, "run", name], environment), DEADLINE_MS);
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
