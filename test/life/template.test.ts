/** Starts that are settled once and used by a program of its own, without a daemon: `policy compile`. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { SPEC } from "../../contract/shim.ts";
import { Home, outcomeOf, type CliResult } from "../home.ts";
import { isRoot, SYSTEM_PYTHON } from "../needs.ts";
import type { Template } from "../../src/launch/template.ts";

const home = new Home();
afterAll(() => home[Symbol.asyncDispose]());
const folder = join(home.dir, "work");
mkdirSync(folder);
const scratch = join(home.dir, "scratch");
mkdirSync(scratch, { mode: 0o777 });

async function compiled(file: string, ...args: string[]): Promise<Template> {
  const { status, stdout, stderr } = await home.cli("policy", "compile", ...args);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  writeFileSync(join(home.dir, file), stdout);
  return JSON.parse(stdout) as Template;
}

function start(file: string, variables: string[], args: string[], cwd = folder): Promise<CliResult> {
  const reader = join(import.meta.dir, "from_template.py");
  const command = ["python3", reader, join(home.dir, file), cwd, scratch, ...variables, "--", ...args];
  return outcomeOf(Bun.spawn(command, { cwd: home.dir, env: home.env, stdio: ["ignore", "pipe", "pipe"] }));
}

test("a program starts a confined Python from a template, with arguments, variables and a folder of its own", async () => {
  const template = await compiled("strict.json", "strict", "--interpreter", SYSTEM_PYTHON);
  expect(template).toMatchObject({ version: 1, policy: "strict", program: SYSTEM_PYTHON });
  expect(template.holes).toEqual(expect.arrayContaining(["argv", "env", "cwd"]));
  expect(template.env_allow).toContain("LC_*");
  writeFileSync(join(folder, "secret"), "kept");
  const code = `
import os, socket, subprocess, sys
print(sys.argv[1:], os.getcwd(), os.environ["GREETING"])
with open(os.environ["TMPDIR"] + "/mine", "w") as file: file.write("x")
def tried(act):
    try: act()
    except Exception as error: return type(error).__name__
    return "done"
print(tried(lambda: open(${JSON.stringify(join(folder, "secret"))})))
print(tried(lambda: socket.socket()))
print(tried(lambda: subprocess.run(["/bin/true"])))
`;
  const { status, stdout, stderr } = await start("strict.json", ["GREETING=hello"], ["-c", code, "one", "two words"]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  const [words, secret, socket, program] = stdout.trim().split("\n");
  expect(words).toBe(`['one', 'two words'] ${folder} hello`);
  expect(secret).toMatch(/^(FileNotFoundError|PermissionError)$/);
  expect(socket).toBe("PermissionError");
  expect(program).toBe("PermissionError");
  for (const [args, ends] of [
    [["-c", "raise SystemExit(7)"], 7],
    [["-c", "import os; os.kill(os.getpid(), 15)"], 143],
  ] as const)
    expect((await start("strict.json", [], [...args])).status).toBe(ends);
  expect((await start("strict.json", [], ["-c", "import os; print(os.getcwd())"], "/")).stdout).toBe("/\n");
  expect(existsSync(home.paths.socket)).toBe(false); // no daemon was started for any of it
});

test("the same start gives the same template, another one another, and what it was made for is told", async () => {
  const script = home.script("work.py", "print('first')\n");
  const [one, same, other] = await Promise.all([
    compiled("one.json", "strict", script),
    compiled("same.json", "strict", script),
    compiled("other.json", "read-only", script),
  ]);
  expect(same).toEqual(one);
  expect(other.key).not.toBe(one.key);
  expect((await start("one.json", [], [])).stdout).toBe("first\n");
  utimesSync(script, 1, 1);
  const { status, stderr } = await start("one.json", [], []);
  expect({ status, stderr }).toEqual({
    status: 1,
    stderr: `the template is of another machine or version: ${script}\n`,
  });
  expect((await compiled("one.json", "strict", script)).key).not.toBe(one.key);
});

test("a policy that grants the project makes a template for one folder", async () => {
  const refused = await home.cli("policy", "compile", "analysis", "--interpreter", SYSTEM_PYTHON);
  expect(refused).toMatchObject({ status: 5, stdout: "", stderr: expect.stringContaining("--cwd") });
  writeFileSync(join(folder, "data"), "seen");
  const template = await compiled("here.json", "analysis", "--interpreter", SYSTEM_PYTHON, "--cwd", folder);
  expect(template.holes).not.toContain("cwd");
  const { stdout, stderr } = await start("here.json", [], ["-c", "print(open('data').read())"], "/nowhere");
  expect({ stdout, stderr }).toEqual({ stdout: "seen\n", stderr: "" });
});

test("what a template cannot say is refused, and the way out works", async () => {
  const bun = process.execPath;
  const refused = await home.cli("policy", "compile", "strict", "--for", "bun", "--interpreter", bun);
  expect(refused.status).toBe(5);
  expect(refused.stderr).toContain("see itself in /proc");
  const [, hint] = /\n +ipcctl (.*)\n/.exec(refused.stderr)!;
  const [, policy] = / '(.*)' /.exec(hint!)!;
  await compiled("bun.json", policy!, "--interpreter", bun);
  const { stdout, stderr } = await start("bun.json", [], ["-e", "console.log(6 * 7, process.cwd())"]);
  expect({ stdout, stderr }).toEqual({ stdout: `42 ${folder}\n`, stderr: "" });
  for (const [args, why] of [
    [["strict", "--snapshot", "base"], "a snapshot forks its workers"],
    [["strict", "x.py", "--for", "node"], "give a script or --for, not both"],
    [["strict", "--interpreter", "nowhere"], "nowhere: no such program"],
    [["strict", "--for", "ruby"], "Allowed choices are python, bun, node"],
  ] as const)
    expect((await home.cli("policy", "compile", ...args)).stderr).toContain(why);
});

test("a program that answers calls gets its socket to the shim, and ends with whoever keeps that", async () => {
  const wanted = ["strict", "--interpreter", SYSTEM_PYTHON];
  const [plain, serving] = await Promise.all([
    compiled("plain.json", ...wanted),
    compiled("serving.json", ...wanted, "--serves"),
  ]);
  const kinds = ({ frames }: Template): number[] => frames.map(({ type }) => type);
  expect(kinds(plain)).not.toContain(SPEC.owner);
  expect(kinds(serving)).toEqual(expect.arrayContaining([SPEC.owner, SPEC.plane, SPEC.log]));
  expect(serving.frames.find(({ type }) => type === SPEC.stop)).toEqual({
    type: SPEC.stop,
    parts: [{ bytes: Buffer.of(0, 0, 0, 0, constants.signals.SIGKILL, 0, 0, 0).toString("base64") }],
  });
});

test("where there are no namespaces the folder for its files is a hole", async () => {
  const policy = home.script(
    "flat.json",
    '{"version": 1, "extends": "strict", "isolation": {"want": []}, "process": {"uid": "keep"}}',
  );
  const template = await compiled("flat.template.json", policy, "--interpreter", SYSTEM_PYTHON);
  expect(template.holes).toContain("scratch");
  expect(template.user).toBeNull();
  const code = "import os; open(os.environ['TMPDIR'] + '/mine', 'w').write('x'); print(os.environ['HOME'])";
  const { stdout, stderr } = await start("flat.template.json", [], ["-c", code]);
  expect({ stdout, stderr }).toEqual({ stdout: `${scratch}\n`, stderr: "" });
  expect(readFileSync(join(scratch, "mine"), "utf8")).toBe("x");
  expect((await compiled("strict.json", "strict", "--interpreter", SYSTEM_PYTHON)).user === null).toBe(!isRoot);
});
