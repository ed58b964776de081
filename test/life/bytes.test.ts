/** Names of files and arguments are bytes. What is no text is refused by name: it would come out as another one. */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Home, outcomeOf, ROOT, type CliResult, waitUntil } from "../home.ts";
import { SYSTEM_PYTHON } from "../needs.ts";

const home = new Home();
afterAll(() => home[Symbol.asyncDispose]());

/** `$1` is a byte that is no UTF-8, `$cli` the program. */
function sh(script: string): Promise<CliResult> {
  const env = { ...home.env, cli: join(ROOT, "bin/ipcctl"), python: SYSTEM_PYTHON };
  const child = Bun.spawn(["sh", "-c", `set -- "$(printf '\\351')"; ${script}`], {
    cwd: home.dir,
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  return outcomeOf(child);
}

test.each([
  ["code", `"$cli" run -c "print(1) # $1"`, "$'print(1) # \\xe9'"],
  ["a script", `: >"x$1.py"; "$cli" run "x$1.py"`, "$'x\\xe9.py'"],
  ["a script of a worker", `"$cli" start "x$1.py"`, "$'x\\xe9.py'"],
  ["an argument", `"$cli" run --interpreter "$python" -c 1 -- a "it's $1"`, "$'it\\'s \\xe9'"],
  ["a variable", `"$cli" run -e "A=$1" -c 1`, "$'A=\\xe9'"],
])("%s that is no text is named, and nothing runs", async (_, script, named) => {
  const { status, stdout, stderr } = await sh(script);
  expect({ status, stdout, first: stderr.split("\n")[0] }).toEqual({
    ...{ status: 2, stdout: "" },
    first: `ipcctl: the argument ${named} is not UTF-8`,
  });
});

test("a folder that is no text is named where it matters; a link gives it a name", async () => {
  const inside = 'mkdir -p "d$1"; ln -sfn "d$1" link; cd "d$1"; echo "import os; print(os.getcwdb())" >y.py;';
  const folder = `$'${home.dir}/d\\xe9'`;
  for (const args of ["run y.py", "start y.py", "run -c 1", "start --name a --command true"]) {
    const { status, stderr } = await sh(`${inside} "$cli" ${args}`);
    expect(stderr).toContain(`the working directory ${folder} is not UTF-8`);
    expect(status).toBe(2);
  }
  expect(await sh(`${inside} "$cli" status`)).toMatchObject({ status: 0 });
  const linked = (policy: string) => sh(`${inside} cd ..; "$cli" run --policy ${policy} --cwd link "$PWD/link/y.py"`);
  expect((await linked("strict")).stderr).toStartWith(`ipcctl: ${home.dir}/link is ${folder}, which is not UTF-8`);
  expect(await linked("read-only")).toMatchObject({ status: 0, stdout: `b'${home.dir}/d\\xe9'\n`, stderr: "" });
});

test("text is handed on as it is, also where it has the sign for what is none", async () => {
  const code = "import sys; print(ascii(sys.argv[1:]))";
  const { stdout } = await home.cli("run", "--interpreter", SYSTEM_PYTHON, "-c", code, "--", "é", "\ufffd", "😀", "");
  expect(stdout).toBe("['\\xe9', '\\ufffd', '\\U0001f600', '']\n");
});

test("a variable that is no text is named, and the program is started without it", async () => {
  const code = "import os; print(sorted(set(os.environb) & {b'A', b'B'}))";
  const { stdout, stderr } = await sh(`A="$1" B=\ufffd "$cli" run --policy trusted -c "${code}"`);
  expect({ stdout, stderr }).toEqual({
    stdout: "[b'B']\n",
    stderr: "the variable $'A=\\xe9' is not UTF-8: the program is started without it\n",
  });
  const started = await sh(`A="$1" "$cli" start --name bytes --policy trusted --command "env"`);
  expect(started.stderr).toContain("the variable $'A=\\xe9' is not UTF-8");
  await waitUntil(async () => (await home.lines("bytes")).some((line) => line.startsWith("PATH=")), "it has printed");
  expect((await home.lines("bytes")).filter((line) => line.startsWith("A="))).toEqual([]);
});

test.each([
  ["variables", 'printf "A=\\351" >env; "$cli" run --env-file env -c 1', "env cannot be read: not UTF-8"],
  ["a project", `printf '{"apps":[{"name":"\\351"}]}' >p.json; "$cli" start --config p.json`, "p.json: not UTF-8"],
  ["a policy", `printf '{"name":"\\351"}' >q.json; "$cli" run --policy ./q.json -c 1`, "q.json: not UTF-8"],
  ["a policy that is checked", '"$cli" policy check ./q.json', "q.json: not UTF-8"],
  ["bytes without end", '"$cli" policy check /dev/zero', "/dev/zero: not a regular file"],
])("a file of %s that is no text is named", async (_, script, named) => {
  const { status, stdout, stderr } = await sh(script);
  expect({ status: status > 1, stdout }).toEqual({ status: true, stdout: "" });
  expect(stderr.split("\n")[0]).toEndWith(named);
});

test("a variable that is no text is named once, however many apps are started with it", async () => {
  home.script("two.json", JSON.stringify({ apps: ["one", "two"].map((name) => ({ name, command: "sleep 600" })) }));
  const { stderr } = await sh(`A="$1" "$cli" start --config two.json`);
  expect(stderr.match(/is not UTF-8/g)).toHaveLength(1);
});
