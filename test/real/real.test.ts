/**
 * Scripts of the kinds that people want confined, with the policy and the flags that they would type, as root and as an
 * ordinary user: what they make and say is right. Those whose packages are large run with `IPCCTL_TEST_REAL=all`.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, chownSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { thisMachine } from "../../src/sandbox/kernel.ts";
import { type CliResult, copyOfApp, outcomeOf, within } from "../home.ts";
import { hasTool, isRoot, skipUnless } from "../needs.ts";
import { pythonForScripts } from "../packages.ts";
import { hasPostgres, type Postgres, startPostgres } from "./postgres.ts";

const NOBODY = 65_534;
const HAS_ALL = process.env.IPCCTL_TEST_REAL === "all";
const RUN_MS = 300_000;

type User = { readonly name: string; readonly uid: number };
const USERS: readonly User[] = isRoot
  ? [
      { name: "root", uid: 0 },
      { name: "nobody", uid: NOBODY },
    ]
  : [{ name: "an ordinary user", uid: process.getuid!() }];

type Need = "PostgreSQL" | "git" | "namespaces";
type Services = {
  /** Host and port of HTTP. */
  readonly web: string;
  readonly database: Postgres;
  /** A folder of the user's. */
  readonly out: string;
};
type Case = {
  /** What is typed behind `ipcctl run`, where the scripts lie. */
  readonly typed: (services: Services) => string;
  readonly says: string | RegExp;
  /** On stderr, where that is not empty. */
  readonly warns?: RegExp;
  /** What is in `out` then, by its beginning. */
  readonly makes?: Readonly<Record<string, string>>;
  /** What it needs beside the packages. */
  readonly needs?: readonly Need[];
  readonly isLarge?: true;
};

const CASES: Readonly<Record<string, Case>> = {
  "requests, httpx, aiohttp and openai to a granted name": {
    typed: ({ web }) => `--allow-net=${web} http_clients.py -- http://${web}`,
    says: "requests tiny\nhttpx tiny\naiohttp tiny\nhttpx, async tiny\nopenai tiny\n",
  },
  "a websocket to a granted name": {
    typed: ({ web }) => `--allow-net=${web} websocket.py -- ws://${web}`,
    says: "one, too\ntwo, too\n",
  },
  "psycopg to a local PostgreSQL": {
    typed: ({ database }) => `--allow-net=localhost:${database.port} postgres.py -- ${database.url}`,
    says: "(1000, 499500)\n(2,)\n",
    needs: ["PostgreSQL"],
  },
  SQLite: {
    typed: ({ out }) => `--allow-write ${out} database.py -- ${out}`,
    says: "(100, 4950)\n".repeat(3),
    makes: { "rows.db": "SQLite format 3\0" },
  },
  "copies and archives with their modes": {
    typed: ({ out }) => `--allow-write ${out} files.py -- ${out}`,
    says: "750 1000000000\n".repeat(4),
    makes: { "packed/tool": "#!/bin/sh\n" },
    needs: ["namespaces"],
  },
  pytest: {
    typed: () => "--policy analysis --command 'python -m pytest -q -p no:cacheprovider test_ours.py'",
    says: /^\.{4} .*\n4 passed in .*\n$/,
  },
  multiprocessing: {
    typed: () => "--policy ./forking.json processes.py",
    says: "[0, 1, 4, 9]\n[0, 1, 4, 9]\n['added', 'added', 'added'] 3\n{'one': 1}\n",
    needs: ["namespaces"],
  },
  "shared memory": {
    typed: () => "--policy ./programs.json memory.py",
    says: "b'bytes'\n",
    needs: ["namespaces"],
  },
  git: {
    typed: ({ out }) => `--policy ./programs.json --allow-write ${out} repository.py -- ${out}`,
    says: "Add two\nAdd one\n",
    warns: /^the program created files that your tools may run by themselves; check them first: .*\n$/,
    makes: { "second/two": "two\n", "first/.git/HEAD": "ref: refs/heads/main\n" },
    needs: ["git", "namespaces"],
  },
  "pip into a virtual environment in the scratch folder": {
    typed: ({ web }) => `--policy ./programs.json --allow-net=${web} environment.py -- http://${web}/simple`,
    says: "42 True\n",
    needs: ["namespaces"],
  },
  "pandas and Matplotlib into a folder": {
    typed: ({ out }) => `--allow-read values.csv --allow-write ${out} tables.py -- values.csv ${out}`,
    says: "(3, 2)\n3\n{'a': 4, 'b': 2}\n",
    makes: {
      "sums.csv": "kind,value\na,4\nb,2\n",
      "table.parquet": "PAR1",
      "sums.png": "\u0089PNG",
      "sums.svg": "<?xml",
      "sums.pdf": "%PDF",
    },
    isLarge: true,
  },
  Polars: {
    typed: ({ out }) => `--allow-read values.csv --allow-write ${out} frames.py -- values.csv ${out}`,
    says: "[{'kind': 'a', 'value': 4}, {'kind': 'b', 'value': 2}]\n999999000000\n",
    makes: { "sums.parquet": "PAR1", "numbers.csv": "number,double\n0,0\n" },
    isLarge: true,
  },
  "scikit-learn": {
    typed: ({ out }) => `--allow-write ${out} forest.py -- ${out}`,
    says: "True\n[0]\n",
    warns: /^.*joblib will operate in serial mode\n.*\n$/,
    isLarge: true,
  },
  numba: { typed: () => "compiled.py", says: "1000.0\n", isLarge: true },
};

const python = await pythonForScripts(HAS_ALL);
const has: Readonly<Record<Need, boolean>> = {
  git: await hasTool("git", "git"),
  PostgreSQL: await hasPostgres(),
  namespaces: thisMachine().namespacesLack === "",
};

/** With the scripts, and an environment for them, as a project has one. */
let folder: string;
let ipcctl: string;
let web: ReturnType<typeof serveWeb>;
let database: Postgres | undefined;
beforeAll(async () => {
  if (python === undefined) return;
  folder = mkdtempSync(join(tmpdir(), "ipcctl-real-"));
  chmodSync(folder, 0o755);
  cpSync(join(import.meta.dir, "scripts"), folder, { recursive: true });
  for (const name of ["forking.json", "programs.json"]) cpSync(join(import.meta.dir, name), join(folder, name));
  writeFileSync(join(folder, "values.csv"), "kind,value\na,1\nb,2\na,3\n");
  const copy = Bun.spawnSync(["cp", "-a", dirname(dirname(python)), join(folder, ".venv")]);
  if (!copy.success) throw new Error(copy.stderr.toString());
  ipcctl = join(copyOfApp(join(folder, ".app")), "bin/ipcctl"); // the checkout may lie where only root may look
  web = serveWeb(makeWheel(python));
  if (has.PostgreSQL) database = await startPostgres();
});
afterAll(async () => {
  if (python === undefined) return;
  await web.stop(true);
  await database?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** By a shell, as it is typed. */
async function run(typed: string, { name, uid }: User): Promise<CliResult> {
  const home = join(folder, `home of ${name}`);
  mkdirSync(home, { recursive: true });
  chownSync(home, uid, uid);
  const child = Bun.spawn(["sh", "-c", `${ipcctl} run ${typed}`], {
    cwd: folder,
    env: { PATH: "/usr/local/bin:/usr/bin:/bin", HOME: home },
    ...(isRoot ? { uid, gid: uid } : {}),
    stdio: ["ignore", "pipe", "pipe"],
  });
  return await within(RUN_MS, `ipcctl run ${typed}`, outcomeOf(child));
}

const large = Object.values(CASES).filter(({ isLarge }) => isLarge === true);
if (python === undefined) skipUnless(false, "packages of Python", "scripts of real kinds");
else if (!HAS_ALL) console.log(`${large.length} scripts with large packages run with IPCCTL_TEST_REAL=all`);
for (const [what, { typed, says, warns, makes = {}, needs = [], isLarge }] of Object.entries(CASES)) {
  if (python === undefined || (isLarge === true && !HAS_ALL)) continue;
  const missing = needs.find((need) => !has[need]);
  if (missing !== undefined && skipUnless(false, missing, what)) continue;
  for (const user of USERS)
    test(
      `${what}, as ${user.name}`,
      async () => {
        const out = `out-${what.replaceAll(/\W+/g, "-")}-${user.uid}`;
        mkdirSync(join(folder, out));
        chownSync(join(folder, out), user.uid, user.uid);
        const { status, stdout, stderr } = await run(
          typed({ web: `localhost:${web.port}`, database: database!, out }),
          user,
        );
        expect({ status, stdout, stderr }).toEqual({
          status: 0,
          stdout: typeof says === "string" ? says : expect.stringMatching(says),
          stderr: warns === undefined ? "" : expect.stringMatching(warns),
        });
        const found = Object.keys(makes).map(
          (name) => [name, readFileSync(join(folder, out, name), "latin1")] as const,
        );
        for (const [name, text] of found) expect(text.slice(0, makes[name]!.length)).toBe(makes[name]!);
      },
      RUN_MS,
    );
}

/** What the clients ask: a list of models, an index of packages, and a websocket that answers each word. */
function serveWeb(wheel: Uint8Array): Bun.Server<undefined> {
  const file = "ipcctl_tiny-1.0-py3-none-any.whl";
  return Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request, server) {
      if (server.upgrade(request)) return undefined;
      const { pathname } = new URL(request.url);
      if (pathname === "/models") return Response.json({ object: "list", data: [{ id: "tiny", object: "model" }] });
      if (pathname === `/simple/ipcctl-tiny/${file}`) return new Response(wheel);
      if (pathname === "/simple/ipcctl-tiny/")
        return new Response(`<a href="${file}">${file}</a>`, { headers: { "content-type": "text/html" } });
      return new Response(null, { status: 404 });
    },
    websocket: { message: (socket, word) => void socket.send(`${String(word)}, too`) },
  });
}

/** A package with one function, as an index has it. */
function makeWheel(interpreter: string): Uint8Array {
  const code = `
import io, sys, zipfile
files = {
    "ipcctl_tiny.py": "def answer(): return 42\\n",
    "ipcctl_tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: ipcctl-tiny\\nVersion: 1.0\\n",
    "ipcctl_tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
}
files["ipcctl_tiny-1.0.dist-info/RECORD"] = "".join(f"{name},,\\n" for name in files)
packed = io.BytesIO()
with zipfile.ZipFile(packed, "w") as archive:
    for name, text in files.items(): archive.writestr(name, text)
sys.stdout.buffer.write(packed.getvalue())`;
  const { success, stdout, stderr } = Bun.spawnSync([interpreter, "-c", code]);
  if (!success) throw new Error(stderr.toString());
  return stdout;
}
