/** Frames of an engine that a guest has taken over: `python test/js/hostile.py 5000` makes more of them. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { seed } from "../seed.ts";

test("engines that send anything at all do no harm to Python", async () => {
  const env = { ...process.env, PYTHONPATH: join(import.meta.dir, "../../python") };
  const command = ["python3", join(import.meta.dir, "hostile.py"), "100", String(seed)];
  const child = Bun.spawn(command, { env, stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 80_000 });
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  if ((await child.exited) !== 0) console.log(output, errors);
  expect(output).toContain("100 engines");
}, 90_000);
