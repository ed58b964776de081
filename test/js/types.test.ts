/** What mypy says of programs of users. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { skipUnless } from "../needs.ts";

const ROOT = join(import.meta.dir, "../..");
const FOLDER = join(import.meta.dir, "types");
const MYPY = join(ROOT, "build/test-mypy/bin/mypy");
const DEADLINE_MS = 120_000;
const isSkipped = skipUnless(existsSync(MYPY), "mypy", "types of JavaScript in Python");

/** Without the settings of this project, as for a user, whose package has the mark `py.typed`. */
function mypy(...files: string[]): string[] {
  const python = join(ROOT, "build/test-mypy/bin/python");
  const options = [
    "--strict",
    "--config-file=",
    `--cache-dir=${ROOT}/build/mypy-users`,
    "--no-error-summary",
    "--follow-imports=silent",
  ];
  const command = [MYPY, ...options, "--python-executable", python, ...files];
  const child = Bun.spawnSync(command, { cwd: FOLDER, env: { ...process.env, MYPYPATH: join(ROOT, "python") } });
  return `${child.stdout.toString()}${child.stderr.toString()}`.trim().split("\n").filter(Boolean);
}

test.skipIf(isSkipped)(
  "a program that uses all of the interface has no errors, and those of the examples have none",
  () => {
    expect(existsSync(join(ROOT, "python/ipcctl/py.typed"))).toBeTrue();
    const examples = new Bun.Glob("*.py").scanSync({ cwd: join(ROOT, "examples/javascript"), absolute: true });
    expect(mypy("good.py", ...examples)).toEqual([]);
  },
  DEADLINE_MS,
);

test("it uses all of the interface", () => {
  const good = readFileSync(join(FOLDER, "good.py"), "utf8");
  const list = 'import ipcctl.js as js; print(*js.__all__, *[n for n in dir(js.Runtime) if n[0] != "_"])';
  const env = { ...process.env, PYTHONPATH: join(ROOT, "python") };
  const names = Bun.spawnSync(["python3", "-c", list], { env }).stdout.toString().trim().split(" ");
  expect(names.length).toBeGreaterThan(40);
  expect(names.filter((name) => !new RegExp(`\\b${name}\\b`).test(good))).toEqual(["create_js_stream_from_python"]);
});

test.skipIf(isSkipped)(
  "mistakes are found where they are, and nowhere else",
  () => {
    const lines = readFileSync(join(FOLDER, "bad.py"), "utf8").split("\n");
    const expected = lines.flatMap((line, at) =>
      (/ {2}# (.*)$/.exec(line)?.[1] ?? "")
        .split(", ")
        .filter(Boolean)
        .map((code) => `${at + 1}: ${code}`),
    );
    const found = mypy("bad.py").flatMap((line) => {
      const [, number, code] = /^bad\.py:(\d+): error: .*\[([\w-]+)\]$/.exec(line) ?? [];
      return code === undefined ? [] : [`${number}: ${code}`];
    });
    expect(found.toSorted()).toEqual(expected.toSorted());
  },
  DEADLINE_MS,
);
