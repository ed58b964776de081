/** Which environment `uv run` and the metadata of scripts come to, and what runs in it; nothing is run to find out. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { IpcError } from "../../src/base/errors.ts";
import { decideLaunch } from "../../src/launch/command.ts";
import { type Environment, environmentOf } from "../../src/launch/environments.ts";
import { decideWithin, type Launchable } from "../../src/launch/languages.ts";
import { temporaryTree } from "../tree.ts";

const { dir, put } = temporaryTree("environments");

const metadata = (text: string): string => `# /// script\n${text.replaceAll(/^/gm, "# ")}\n# ///\n`;
const NEEDS = metadata(
  'requires-python = ">=3.10"\ndependencies = [\n  "rich",\n  "httpx[http2]>=0.27,<1; python_version > \'3\'",\n]',
);
const UV = "#!/usr/bin/env -S uv run --script\n";

for (const name of ["python3", "uv", "nice", "sh"]) put(`bin/${name}`, "\x7fELF", 0o755);
const BIN = join(dir, "bin");
put("x.py");
put("needs.py", NEEDS);
put("windows.py", NEEDS.replaceAll("\n", "\r\n"));
put("u.py", `#!/usr/bin/python3 -u\n"""Says."""\n${NEEDS}import rich\n`);
put("own.py", `#!${put("own/python3", "\x7fELF", 0o755)}\n${NEEDS}`);
put("none.py", metadata('requires-python = ">=3.10"\ndependencies = []'));
put("text.py", 'print("""\n# /// script\nno comment\n# ///\n""")\n');
put("uv.py", UV + NEEDS);
put("uvwith", `#!/usr/bin/env -S uv run --quiet --with six,idna>=3,<4 -p3.12 --script\n${NEEDS}`);
put("bare.py", UV);
put("tool", UV + NEEDS, 0o755);
put("locked.py", NEEDS);
put("locked.py.lock", "version = 1\n");
put("newer.py", metadata('dependencies = ["rich"]\n[tool.uv]\nexclude-newer = "2026-01-01"'));
put(
  "proj/pyproject.toml",
  '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["rich"]\n',
);
put("proj/uv.lock", "version = 1\n");
put("proj/x.py");
put("free/pyproject.toml", '[project]\nname = "p"\nversion = "1"\n');
put("package/pyproject.toml", '[project]\nname = "p"\nversion = "1"\n[build-system]\nrequires = ["hatchling"]\n');
put("package/uv.lock", "version = 1\n");
put("package/.venv/pyvenv.cfg");
put("venv/.venv/pyvenv.cfg");
put("venv/in/x.py");
put("made/pyvenv.cfg");
for (const name of ["python", "python3"]) put(`made/bin/${name}`, "\x7fELF", 0o755);
put("made/bin/flask", `#!${join(dir, "made/bin/python")}\n`, 0o755);
put("made/bin/ruff", "\x7fELF", 0o755);
const MADE = join(dir, "made");
const PY = join(MADE, "bin/python");

function appOf(wanted: Partial<Launchable>): Launchable {
  const none = { script: null, command: null, code: null, args: [], interpreter: null, env: {}, env_file: null };
  return { ...none, ...wanted, cwd: join(dir, wanted.cwd ?? ".") };
}

function findIn(wanted: Partial<Launchable>) {
  const app = appOf(wanted);
  const variables = { PATH: BIN };
  const running = decideLaunch(app, variables);
  const inside = running.uv === undefined && running.explicit?.uv ? running.explicit : running;
  const found = environmentOf(inside, app, "/e", inside === running ? undefined : false);
  const argv = found === undefined ? undefined : decideWithin(MADE, inside, variables).argv.join(" ");
  return { found, argv };
}

const RICH = ["rich", "httpx[http2]>=0.27,<1; python_version > '3'"];
const command = (words: string, cwd = "."): Partial<Launchable> => {
  const [first = "", ...args] = words.split(" ");
  return { command: first, args, cwd };
};

/** The words that are executed in the environment, and what it is to have. */
const CASES: readonly (readonly [Partial<Launchable>, string, Partial<Environment>])[] = [
  [{ script: "needs.py", args: ["a"] }, `${PY} needs.py a`, { python: ">=3.10", requirements: RICH }],
  [{ script: "windows.py" }, `${PY} windows.py`, { python: ">=3.10", requirements: RICH }],
  [{ script: "u.py" }, `${PY} -u u.py`, { requirements: RICH }],
  [{ script: "locked.py" }, `${PY} locked.py`, { lock: ["--script", join(dir, "locked.py")] }],
  [{ script: "newer.py" }, `${PY} newer.py`, { options: ["--exclude-newer=2026-01-01"] }],
  [{ script: "uv.py", args: ["-I"] }, `${PY} uv.py -I`, { python: ">=3.10", requirements: RICH, owner: "uv.py" }],
  [{ script: "uvwith" }, `${PY} uvwith`, { python: "3.12", requirements: [...RICH, "six", "idna>=3,<4"] }],
  [{ script: "bare.py" }, `${PY} bare.py`, { python: undefined, requirements: [], lock: undefined }],
  [command("./tool a"), `${PY} ${join(dir, "tool")} a`, { requirements: RICH }],
  [command("nice -n 1 ./tool a"), `nice -n 1 ${PY} ${join(dir, "tool")} a`, { requirements: RICH }],
  [{ script: "x.py", interpreter: "uv run --with rich" }, `${PY} x.py`, { requirements: ["rich"] }],
  [{ script: "x.py", interpreter: "nice -n 1 uv run -s" }, `nice -n 1 ${PY} x.py`, { requirements: [] }],
  [{ script: "needs.py", interpreter: "env A=1 uv run" }, `${PY} needs.py`, { requirements: RICH }],
  [command("uv run needs.py b"), `${PY} needs.py b`, { requirements: RICH }],
  [command("uv run python -c 1"), `${PY} -c 1`, { requirements: [] }],
  [command("uv run -- python3 x.py"), `${join(MADE, "bin/python3")} x.py`, { requirements: [] }],
  [command("uv run --with flask -m flask run"), `${PY} -m flask run`, { requirements: ["flask"] }],
  [command("uv run --with=flask flask run"), `${PY} ${join(MADE, "bin/flask")} run`, { requirements: ["flask"] }],
  [command("uv run --with ruff ruff check"), `${join(MADE, "bin/ruff")} check`, { requirements: ["ruff"] }],
  [command("uv run sh -c ls"), "sh -c ls", {}],
  [
    command("uv run --index-url http://i -f wheels x.py"),
    `${PY} x.py`,
    { options: ["--index-url=http://i", "-f", join(dir, "wheels")] },
  ],
  [
    command("uv run --extra a --no-dev x.py", "proj"),
    `${PY} x.py`,
    { python: ">=3.11", lock: ["--project", join(dir, "proj"), "--no-emit-project", "--extra=a", "--no-dev"] },
  ],
  [command("uv run --no-project x.py", "proj"), `${PY} x.py`, { lock: undefined }],
];

test.each(CASES)("%j runs %s, with %j", (wanted, words, parts) => {
  const { found, argv } = findIn(wanted);
  expect(argv).toBe(words);
  expect(found).toMatchObject(JSON.parse(JSON.stringify(parts)) as object);
  for (const [name, value] of Object.entries(parts))
    if (value === undefined) expect((found as Record<string, unknown>)[name]).toBeUndefined();
});

test("what says nothing of the kind needs none, nor does what has chosen its Python", () => {
  for (const script of ["x.py", "none.py", "own.py", "text.py"]) expect(findIn({ script }).found).toBeUndefined();
  expect(findIn({ script: "needs.py", interpreter: "python3" }).found).toBeUndefined();
  expect(findIn(command("python3 needs.py")).found).toBeUndefined();
});

test("a venv that is there is used where no project, or --no-sync, says so", () => {
  expect(findIn(command("uv run x.py", "venv/in")).found).toBe(join(dir, "venv/.venv"));
  expect(findIn(command("uv run --no-sync x.py", "package")).found).toBe(join(dir, "package/.venv"));
});

test("an environment is named by what decides: another version, lock or option is another one, other code is not", () => {
  const linkOf = (wanted: Partial<Launchable>): string => (findIn(wanted).found as Environment).link;
  const [before, locked] = [linkOf({ script: "needs.py" }), linkOf({ script: "locked.py" })];
  put("needs.py", `${NEEDS}print()\n`);
  expect(linkOf({ script: "needs.py" })).toBe(before);
  expect(linkOf({ script: "windows.py" })).toBe(before);
  put("needs.py", NEEDS.replace("rich", "rich<14"));
  expect(linkOf({ script: "needs.py" })).not.toBe(before);
  put("needs.py", NEEDS);
  put("locked.py.lock", "version = 2\n");
  expect(linkOf({ script: "locked.py" })).not.toBe(locked);
});

/** What a script could reach by it, or have run, before its policy holds. */
const REFUSED: readonly (readonly [what: string, text: string])[] = [
  ["an address", metadata('dependencies = ["rich @ http://h/x"]')],
  ["a repository", metadata('dependencies = ["git+https://h/x"]')],
  ["a path", metadata('dependencies = ["./x"]')],
  ["an option", metadata('dependencies = ["--index-url=http://h"]')],
  ["an option behind a name", metadata('dependencies = ["rich --index-url http://h"]')],
  ["a second line", metadata('dependencies = ["rich\\n-r /etc/passwd"]')],
  ["a line that goes on", metadata("dependencies = [\"rich; python_version > '3' \\\\\\n--pre\"]")],
  ["a variable", metadata("dependencies = [\"rich; extra == '${HOME}'\"]")],
  ["an index", metadata('dependencies = ["rich"]\n[[tool.uv.index]]\nurl = "http://h"')],
  ["a source", metadata('dependencies = ["rich"]\n[tool.uv.sources]\nrich = { path = "/x" }')],
  ["a program in the place of a version", metadata('requires-python = "/x/python"\ndependencies = ["rich"]')],
  ["another environment", metadata('requires-python = "needs-0123456789abcdef0123"\ndependencies = ["rich"]')],
  ["a program by its name", metadata('requires-python = "reboot"\ndependencies = ["rich"]')],
  ["no list", metadata('dependencies = "rich"')],
  ["no TOML", metadata("dependencies = [")],
  ["an index in its first line", `#!/usr/bin/env -S uv run --index http://h --script\n${NEEDS}`],
  ["an index and a sign in its first line", `#!/usr/bin/env -S uv run --index=http://h --script\n${NEEDS}`],
  ["a file of settings in its first line", `#!/usr/bin/env -S uv --config-file /x run --script\n${NEEDS}`],
  ["a folder of wheels in its first line", `#!/usr/bin/env -S uv run -f/x --script\n${NEEDS}`],
  ["a project in its first line", "#!/usr/bin/env -S uv run --project /x --script\n"],
  ["a Python in its first line", `#!/usr/bin/env -S uv run -p /x --script\n${NEEDS}`],
  ["a program by its name in its first line", `#!/usr/bin/env -S uv run -p python3-evil --script\n${NEEDS}`],
  ["an address in its first line", `#!/usr/bin/env -S uv run --with x@http://h --script\n${NEEDS}`],
  ["a file in its first line", `#!/usr/bin/env -S uv run --with-requirements /x --script\n${NEEDS}`],
  ["variables in its first line", `#!/usr/bin/env -S uv run --env-file /x --script\n${NEEDS}`],
];

function errorOf(act: () => unknown): IpcError | undefined {
  try {
    act();
  } catch (error) {
    return error as IpcError;
  }
  return undefined;
}

test.each(REFUSED)("a script that names %s is refused", (what, text) => {
  const script = put(`refused/${what.replaceAll(" ", "-")}.py`, text);
  const error = errorOf(() => findIn({ script }));
  expect(error?.code).toBe("START_FAILED");
  expect(findIn({ script: "x.py", interpreter: "uv run --index http://h" }).found).toBeDefined(); // its user may
});

test("what would have to be built, or is not decided, is refused with what to do", () => {
  const hintOf = (wanted: Partial<Launchable>): string | undefined => errorOf(() => findIn(wanted))?.hint;
  expect(hintOf(command("uv run x.py", "package"))).toBe(
    `build it yourself first: cd ${join(dir, "package")} && uv sync; then uv run --no-sync …`,
  );
  expect(hintOf(command("uv run x.py", "free"))).toBe(`cd ${join(dir, "free")} && uv lock`);
  expect(hintOf(command("uv run --with-editable . x.py"))).toContain("--interpreter VENV/bin/python");
  expect(hintOf(command("uv run --with rich x.py", "venv/in"))).toContain("--no-project");
});
