/**
 * What `npm pack` makes, installed as users install it: without a compiler, without install scripts, in an empty home.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { type CliResult, ROOT } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { installNode, NODE_VERSION } from "../node.ts";
import { fileNames, Machine, pack } from "./installed.ts";
import { Registry, type Tarball, UPSTREAM } from "./registry.ts";

const WORKER = `
import ipcctl

@ipcctl.expose
def add(a, b):
    return a + b

@ipcctl.expose
def mean(values):
    return sum(values) / len(values)

@ipcctl.expose
def rows(count):
    yield from range(count)

@ipcctl.expose
def fail():
    raise ValueError("no")

@ipcctl.expose
def implementation():
    from ipcctl import _backend
    return _backend.implementation

print("up", flush=True)
ipcctl.serve()
`;
const ANSWERS = {
  ...{ sum: 6, mean: 2, rows: [0, 1, 2], failure: "ValueError: no", evaluated: 42, bytes: 8, known: "NOT_FOUND" },
  classes: ["function", "function", "function"],
};

const node = await installNode();
const bun = join(ROOT, "node_modules/bun/bin/bun.exe");
const isReached = await fetch(new URL("bun", UPSTREAM)).then(
  ({ ok }) => ok,
  () => false,
);
const isThere = !skipUnless(
  isReached && process.arch === "x64",
  "registry of npm",
  "the packages as they are installed",
);
let tarballs: readonly Tarball[] = [];
let registry: Registry;

beforeAll(async () => {
  if (!isThere) return;
  tarballs = await pack();
  registry = new Registry(tarballs);
});
afterAll(() => {
  registry?.[Symbol.dispose]();
  for (const { path } of tarballs) rmSync(dirname(path), { recursive: true, force: true });
});

/** What a command says that ends well. */
function said({ status, stdout, stderr }: CliResult): string {
  if (status !== 0) throw new Error(`exit ${status}: ${stdout}${stderr}`);
  return stdout;
}

/** All that a first day takes, with what is installed there. */
async function tryOut(machine: Machine, cwd: string): Promise<void> {
  const cli = (...args: string[]) => machine.cli(cwd, ...args);
  writeFileSync(join(cwd, "worker.py"), WORKER);
  expect(await cli("doctor")).not.toContain("FAIL");
  expect(await cli("start", "worker.py")).toStartWith("started worker");
  expect(await cli("call", "worker", "add", "2", "3")).toBe("5\n");
  expect(await cli("call", "worker", "implementation")).toBe('"c"\n');
  expect(await cli("eval", "worker", "6 * 7")).toBe("42\n");
  expect(await cli("logs", "worker")).toBe("up\n");
  expect(await cli("run", "-c", "print(1 + 1)")).toBe("2\n");
  expect(await cli("snapshot", "create", "tools", "--import", "json")).toContain("tools");
  expect(await cli("run", "--snapshot", "tools", "-c", "print(1 + 2)")).toBe("3\n");
  const pid = async (): Promise<number> => {
    const workers = JSON.parse(await cli("status", "--json")) as { name: string; pid: number }[];
    return workers.find(({ name }) => name === "worker")!.pid;
  };
  const before = await pid();
  expect(await cli("daemon", "restart")).toContain("daemon restarted");
  expect(await pid()).toBe(before);
  expect(await cli("call", "worker", "add", "20", "3")).toBe("23\n");
  await cli("snapshot", "delete", "tools");
  expect(await cli("daemon", "stop")).toContain("stopped");
}

/**
 * The program of program.ts in this project, checked and compiled by each compiler, in each of the modes that take
 * packages.
 */
async function compile(machine: Machine, project: string): Promise<void> {
  copyFileSync(join(import.meta.dir, "program.ts"), join(project, "program.ts"));
  mkdirSync(join(project, "node_modules/@types"), { recursive: true });
  for (const name of ["node", "../undici-types"]) {
    const to = join(project, "node_modules/@types", name);
    if (!existsSync(to)) symlinkSync(join(ROOT, "node_modules/@types", name), to);
  }
  for (const compiler of ["tsc", "tsc6"])
    for (const mode of [["nodenext"], ["preserve", "--moduleResolution", "bundler"]]) {
      const flags = ["--strict", "--target", "es2022", "--types", "node", "--outDir", join(project, "out"), "--module"];
      const command = [node!, join(ROOT, "node_modules/.bin", compiler), ...flags, ...mode, "program.ts"];
      const { status, stdout } = await machine.run(project, command);
      expect({ compiler, mode, status, stdout }).toEqual({ compiler, mode, status: 0, stdout: "" });
    }
}

test.if(isThere)("the same files make the same packages, wherever they lie", async () => {
  const again = await pack();
  expect(fileNames(again)).toEqual(["ipcctl-0.1.0.tgz", "ipcctl-linux-x64-0.1.0.tgz"]);
  const hashes = (of: readonly Tarball[]): string[] =>
    of.map(({ path }) => Bun.SHA256.hash(readFileSync(path), "hex")).toSorted();
  expect(hashes(again)).toEqual(hashes(tarballs));
  rmSync(dirname(again[0]!.path), { recursive: true });
  const listed = Bun.spawnSync([
    "tar",
    "-tzf",
    tarballs.find(({ path }) => path.endsWith("ipcctl-0.1.0.tgz"))!.path,
  ]).stdout.toString();
  expect(listed).not.toMatch(/__pycache__|\/src\/|\/contract\/|\/test\//);
});

test.if(isThere)("npm install -g: all of it works, and what is missing is named with what mends it", async () => {
  await using machine = new Machine(registry.url);
  const cwd = machine.folder("global");
  const prefix = join(cwd, "prefix");
  said(await machine.run(cwd, ["npm", "install", "-g", "--prefix", prefix, "--ignore-scripts", "ipcctl"]));
  machine.ipcctl = join(prefix, "bin/ipcctl");
  if (Bun.which("man") !== null) {
    const manual = await machine.run(cwd, ["man", "--where", "ipcctl"], { MANPATH: join(prefix, "share/man") });
    expect(said(manual)).toBe(`${join(prefix, "lib/node_modules/ipcctl/docs/ipcctl.1")}\n`);
  }
  expect(existsSync(join(prefix, "share/man/man1/ipcctl.1"))).toBe(true);
  const typed = `eval "$(ipcctl completion bash)"; COMP_WORDS=(ipcctl dae); COMP_CWORD=1; _ipcctl; echo "\${COMPREPLY[*]}"`;
  const path = `${join(prefix, "bin")}:${machine.env.PATH}`;
  expect(said(await machine.run(cwd, ["bash", "-c", typed], { PATH: path }))).toBe("daemon\n");
  expect(await machine.cli(cwd, "--version")).toBe("0.1.0\n");
  await tryOut(machine, cwd);

  const parts = join(prefix, "lib/node_modules/ipcctl/node_modules/@ipcctl");
  renameSync(parts, join(cwd, "parts"));
  const { status, stderr } = await machine.run(cwd, [machine.ipcctl, "start", "worker.py"]);
  expect(status).toBe(3);
  expect(stderr).toContain("the shim is missing");
  const once = await machine.run(cwd, [machine.ipcctl, "run", "-c", "pass"]);
  expect(once.stderr).toContain("the shim is missing");
  const doctor = await machine.run(cwd, [machine.ipcctl, "doctor"]);
  expect(doctor.status).toBe(1);
  expect(doctor.stdout).toContain("FAIL  shim");
  const [, byNpm, byCompiler] = /(npm install -g \S+); or, with a C compiler: (sh \S+\/build\.sh)/.exec(doctor.stdout)!;
  said(await machine.run(cwd, byNpm!.split(" "), { npm_config_prefix: prefix }));
  expect(await machine.cli(cwd, "run", "-c", "print(1)")).toBe("1\n");
  rmSync(join(prefix, "lib/node_modules/@ipcctl"), { recursive: true });
  said(await machine.run(cwd, byCompiler!.split(" "), { PATH: process.env.PATH! }));
  expect(await machine.cli(cwd, "run", "-c", "print(1)")).toBe("1\n");
});

test.if(isThere)("npm install in a project: the command, the types, and the SDK on Node", async () => {
  if (skipUnless(node !== undefined, `Node ${NODE_VERSION}`, "the package on Node")) return;
  await using machine = new Machine(registry.url);
  const cwd = machine.folder("project");
  writeFileSync(join(cwd, "package.json"), JSON.stringify({ name: "project", private: true, type: "module" }));
  said(await machine.run(cwd, ["npm", "install", "--ignore-scripts", "ipcctl"]));
  machine.ipcctl = join(cwd, "node_modules/.bin/ipcctl");
  await tryOut(machine, cwd);
  await compile(machine, cwd);
  expect(JSON.parse(said(await machine.run(cwd, [node!, "out/program.js"])))).toEqual(ANSWERS);
  await machine.cli(cwd, "daemon", "stop");

  const asked = "void connect().catch(({ message, hint }) => console.log(message, hint));";
  writeFileSync(join(cwd, "inside.ts"), `import { connect } from "ipcctl"; ${asked}`);
  for (const [target, runtime] of [
    ["node", node!],
    ["bun", bun],
  ] as const) {
    said(await machine.run(cwd, [bun, "build", "inside.ts", `--target=${target}`, "--outfile=inside.mjs"]));
    const text = readFileSync(join(cwd, "inside.mjs"), "utf8");
    writeFileSync(join(cwd, "emptied.mjs"), text.replaceAll("import.meta", "({})")); // as bundlers do for CommonJS
    for (const file of ["inside.mjs", "emptied.mjs"])
      expect(said(await machine.run(cwd, [runtime, file]))).toMatch(/^ipcctl was bundled into .* mark it as external/);
  }

  const program = (before: string): string[] => [
    node!,
    "--input-type=module",
    "-e",
    `${before}; const { connect } = await import("ipcctl"); console.log("imported");
    await connect().catch(({ code, message, hint }) => console.log(JSON.stringify({ code, message, hint })));`,
  ];
  const required = `const { connect, IpcError } = require("ipcctl"); console.log(typeof connect, typeof IpcError);`;
  // Prettier-ignore.
  expect(await machine.run(cwd, [node!, "--input-type=commonjs", "-e", required])).toMatchObject({
    status: 0,
    stdout: "function function\n",
  });
  const old = `Object.defineProperty(process.versions, "node", { value: "20.1.0" })`;
  expect(said(await machine.run(cwd, program(old)))).toBe(
    `imported\n${JSON.stringify({ code: "FAILED", message: "ipcctl needs Node 22 or newer, or Bun; this is Node 20.1.0" })}\n`,
  );
  const other = `Object.defineProperty(process, "platform", { value: "darwin" })`;
  expect(said(await machine.run(cwd, program(other)))).toContain("ipcctl runs on Linux; this is darwin");
  renameSync(join(cwd, "node_modules/@ipcctl"), join(cwd, "parts"));
  const without = said(await machine.run(cwd, program("")));
  expect(without).toStartWith("imported\n");
  const [, remedy] = /"hint":"(npm install --prefix \S+ --save-optional \S+);/.exec(without)!;
  said(await machine.run(machine.dir, remedy!.split(" ")));
  expect(said(await machine.run(cwd, program("")))).toBe("imported\n");
  await machine.cli(cwd, "daemon", "stop");
});

test.if(isThere)("bun add: the command, the types, and the SDK on Bun", async () => {
  await using machine = new Machine(registry.url);
  const cwd = machine.folder("bun-project");
  writeFileSync(join(cwd, "package.json"), JSON.stringify({ name: "project", private: true, type: "module" }));
  const env = { BUN_INSTALL_CACHE_DIR: join(machine.dir, "bun-cache") };
  said(await machine.run(cwd, [bun, "add", "--registry", registry.url, "ipcctl"], env));
  machine.ipcctl = join(cwd, "node_modules/.bin/ipcctl");
  await tryOut(machine, cwd);
  await compile(machine, cwd);
  expect(JSON.parse(said(await machine.run(cwd, [bun, "program.ts"])))).toEqual(ANSWERS);
  await machine.cli(cwd, "daemon", "stop");

  expect(readFileSync(join(cwd, "node_modules/ipcctl/build/js/ipcctl.js"), "utf8")).not.toMatch(/^\s*(await )?using /m);
  const old = `Object.defineProperty(process.versions, "bun", { value: "1.3.0" }); const { connect } = await import("ipcctl");
    await connect().catch(({ message }) => console.log(message));`;
  expect(said(await machine.run(cwd, [bun, "-e", old]))).toBe(
    "ipcctl needs Bun from 1.4.5 to below 2, or Node 22 or newer; this is Bun 1.3.0\n",
  );
});
