/** `doctor` looks at what is broken, so nothing that is broken may end it. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { EDITION } from "../../contract/edition.ts";
import { copyOfApp, Home, outcomeOf } from "../home.ts";

const home = new Home();
home.installation = copyOfApp(join(home.dir, "app"));
afterAll(() => home[Symbol.asyncDispose]());
const ALL = JSON.parse((await home.cli("doctor", "--json")).stdout) as {
  name: string;
  detail: string;
  remedy?: string;
}[];

test.each([
  ["policies", 1, /^FAIL {2}installation +not whole: .*\/policies\/strict\.json\n +→ install ipcctl/m],
  ["policies", 1, /^FAIL {2}policies +.*ENOENT.*\n +→ is another version/m],
  ["python/boot", 1, /^FAIL {2}installation +not whole: .*sitecustomize\.py/m],
  ["native/build/ipcctl-shim", 1, /^FAIL {2}shim +not there: .*\n +→ with a C compiler: sh \/.*native\/build\.sh$/m],
  ["native/build/ipcctl-shim", 1, /^FAIL {2}policies +not known without the shim$/m],
  ["native/build/python", 0, /^warn {2}extension .*\n +→ with a C compiler: sh \/.*native\/build-python\.sh$/m],
])("without %s", async (part, status, told) => {
  const path = join(home.installation, part);
  renameSync(path, `${path}.gone`);
  try {
    const said = await home.cli("doctor");
    expect({ status: said.status, stderr: said.stderr }).toEqual({ status, stderr: "" });
    expect(said.stdout).toMatch(told);
    for (const { name } of ALL) expect(said.stdout).toMatch(new RegExp(`^(ok  |warn|FAIL)  ${name} `, "m"));
  } finally {
    renameSync(`${path}.gone`, path);
  }
});

test("with a configuration that cannot be read", async () => {
  const config = join(home.env.IPCCTL_HOME!, "config.json");
  mkdirSync(dirname(config), { recursive: true });
  writeFileSync(config, "{");
  try {
    const said = await home.cli("doctor");
    expect({ status: said.status, stderr: said.stderr }).toEqual({ status: 1, stderr: "" });
    expect(said.stdout).toMatch(/^FAIL {2}state directory +.*config\.json: .*\n +→ fix it/m);
    expect(said.stdout).toMatch(/^ok {4}kernel /m);
  } finally {
    rmSync(config);
  }
});

test("where no folder can be made, run says which variable names another one", async () => {
  const run = async (env: Record<string, string>): Promise<string> => {
    const command = [join(home.installation, "bin/ipcctl"), "run", "-c", "pass"];
    return (await outcomeOf(Bun.spawn(command, { env: { ...home.env, ...env }, stdio: ["ignore", "pipe", "pipe"] })))
      .stderr;
  };
  expect(await run({ TMPDIR: "/proc" })).toMatch(/^ipcctl: run: .*'\/proc\/.*\n {2}.*TMPDIR/);
  expect(await run({ IPCCTL_HOME: "/proc/1/none" })).toMatch(/^ipcctl: run: .*'\/proc\/1\/.*\n {2}.*IPCCTL_HOME/);
});

/** As a disk that was full, or an archive that ended early, leaves a file. */
const cut = (bytes: Buffer): Buffer => bytes.subarray(0, bytes.length / 2);
/** For another machine: the number of its architecture says so. */
const foreign = (bytes: Buffer): Buffer => Buffer.from(bytes).fill(0xf3, 0x12, 0x13);

/** What is left where an installation was replaced by halves: built for code of another version. */
const older = (bytes: Buffer): Buffer =>
  Buffer.from(bytes.toString("latin1").replaceAll(EDITION, EDITION.replace(/^./, "7")), "latin1");

test.each<[part: string, spoil: (bytes: Buffer) => Buffer | string, status: number, told: RegExp]>([
  ["native/build/ipcctl-shim", foreign, 1, /^FAIL {2}shim +cannot be run: .*\n +→ .*native\/build\.sh$/m],
  ["native/build/ipcctl-shim", () => "", 1, /^FAIL {2}policies +the shim cannot be run: .*\n +→ .*native\/build\.sh$/m],
  ["native/build/become.so", cut, 0, /^warn {2}snapshots +.*become\.so is broken.*\n +→ .*native\/build\.sh$/m],
  ["native/build/plane.node", foreign, 0, /^warn {2}addon +.*plane\.node is broken.*\n +→ .*native\/build-node\.sh$/m],
  ["native/build/python/_ipcctl.abi3.so", () => "", 0, /^warn {2}extension +.*\.so is broken.*\n +→ /m],
  [
    "native/build/python/_ipcctl.abi3.so",
    older,
    0,
    /^warn {2}extension +.*\.so is of another version.*\n +→ .*build-python\.sh$/m,
  ],
  [
    "native/build/plane.node",
    older,
    0,
    /^warn {2}addon +.*plane\.node is of another version.*\n +→ .*build-node\.sh$/m,
  ],
  ["policies/strict.json", () => "{", 1, /^FAIL {2}policies +.*strict\.json: .*\n +→ install ipcctl/m],
])("with a broken %s", async (part, spoil, status, told) => {
  const path = join(home.installation, part);
  const { mode } = statSync(path);
  renameSync(path, `${path}.whole`);
  writeFileSync(path, spoil(readFileSync(`${path}.whole`)), { mode });
  try {
    const said = await home.cli("doctor");
    expect({ status: said.status, stderr: said.stderr }).toEqual({ status, stderr: "" });
    expect(said.stdout).toMatch(told);
  } finally {
    renameSync(`${path}.whole`, path);
  }
});

test.each<[what: string, spoil: (bytes: Buffer) => Buffer, implementation: string, told: RegExp | ""]>([
  ["as it was built", (bytes) => bytes, "c", ""],
  ["of another version", older, "pure", /^ipcctl: \S+\.so is of another version than \S+, .* see: ipcctl doctor\n$/],
  [
    "that looks for what is not there",
    (bytes) => Buffer.from(bytes.toString("latin1").replaceAll("StreamRef", "StreamRex"), "latin1"),
    "pure",
    /^ipcctl: \S+\.so is of another version than .*\n$/,
  ],
])(
  "a worker beside an extension %s serves, and says once that it is slower",
  async (_, spoil, implementation, told) => {
    const path = join(home.installation, "native/build/python/_ipcctl.abi3.so");
    renameSync(path, `${path}.whole`);
    writeFileSync(path, spoil(readFileSync(`${path}.whole`)));
    try {
      const code = "import ipcctl, ipcctl._serving; print(ipcctl._backend.implementation)";
      const { status, stdout, stderr } = await home.cli("run", "--policy", "trusted", "-c", code);
      expect({ status, stdout, stderr }).toEqual({
        ...{ status: 0, stdout: `${implementation}\n` },
        stderr: told && expect.stringMatching(told),
      });
    } finally {
      renameSync(`${path}.whole`, path);
    }
  },
);

test("an installation that is whole lacks nothing", () => {
  for (const part of ["extension", "snapshots", "addon"]) expect(ALL.map(({ name }) => name)).not.toContain(part);
});

/** In the place of the shim, one that has no room for a process the first `times` times that it is asked. */
function shimWithoutRoom(times: number): { asked: () => number } & Disposable {
  const path = join(home.installation, "native/build/ipcctl-shim");
  const count = join(home.dir, "asked");
  renameSync(path, `${path}.true`);
  writeFileSync(count, "");
  writeFileSync(
    path,
    `#!/bin/sh
if [ "$1" = --probe ]; then
  printf x >>${count}
  [ "$(wc -c <${count})" -gt ${times} ] || { echo "namespaces: Resource temporarily unavailable" >&2; exit 1; }
fi
exec "$0.true" "$@"
`,
    { mode: 0o755 },
  );
  return { asked: () => statSync(count).size, [Symbol.dispose]: () => renameSync(`${path}.true`, path) };
}

test("a machine that is short of processes for a moment is not taken for one that lacks something", async () => {
  const usual = await home.cli("policy", "explain", "strict");
  using shim = shimWithoutRoom(2);
  expect(await home.cli("policy", "explain", "strict")).toEqual(usual);
  expect(shim.asked()).toBe(3);
});

test("where that lasts nothing is started with less than was asked for", async () => {
  using shim = shimWithoutRoom(1000);
  const { status, stdout, stderr } = await home.cli("run", "-c", "print(1)");
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  expect(stderr).toStartWith(
    "ipcctl: cannot find out at the moment what this machine can enforce: namespaces: Resource temporarily unavailable\n",
  );
  expect(shim.asked()).toBe(20);
});

test("colours are there where they are asked for, and nowhere else", async () => {
  for (const flags of [["--color", "always"], ["--color=always"]])
    expect((await home.cli("doctor", ...flags)).stdout).toContain("\u001b[32mok  \u001b[39m");
  expect((await home.cli("doctor")).stdout).not.toContain("\u001b");
  expect((await home.cli("doctor", "--json", "--color", "always")).stdout).not.toContain("\u001b");
});
