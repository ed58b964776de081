/**
 * Ways out that a red team found: each was a hole once. What a policy grants is taken by the worker, and what is
 * prepared there is met by whoever starts it the next time; what a policy denies is asked for by another name.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { type CliResult, copyOfApp, ROOT, Home, outcomeOf, waitUntil } from "../home.ts";
import { SYSTEM_PYTHON, hasTool, isRoot, skipUnless } from "../needs.ts";

setDefaultTimeout(60_000);
const hasPython = await hasTool(SYSTEM_PYTHON, "python3-minimal");
skipUnless(hasPython, SYSTEM_PYTHON, "what a confined Python is denied");
skipUnless(isRoot, "root", "what a worker may not do to a daemon that is root");
const isX64 = process.arch === "x64";
skipUnless(isX64, "x86-64", "arguments and registers of system calls");
const hasCompiler = isX64 && (await hasTool("/usr/bin/gcc", "gcc"));
if (isX64) skipUnless(hasCompiler, "/usr/bin/gcc", "what is left of the token");

let home: Home;
beforeAll(() => {
  home = new Home();
  chmodSync(home.dir, 0o755);
});
afterAll(() => home[Symbol.asyncDispose]());

let count = 0;
/** A folder in which anybody may write, as a project's that a worker is let into. */
function folder(): string {
  const path = join(home.dir, `folder-${++count}`);
  mkdirSync(path);
  chmodSync(path, 0o777);
  return path;
}

function policy(more: object, base = "strict"): string {
  return home.script(`policy-${++count}.json`, JSON.stringify({ version: 1, extends: base, ...more }));
}

/** `ipcctl` in a folder, ended after a while: what hangs is a finding too. */
async function cli(cwd: string, ...args: string[]): Promise<CliResult> {
  const child = Bun.spawn(["timeout", "-k", "1", "200", join(ROOT, "bin/ipcctl"), ...args], {
    cwd,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  return await outcomeOf(child);
}

/** Python in the foreground; the last line of what it printed. */
async function python(flags: string[], code: string, cwd: string = home.dir): Promise<string> {
  const { stdout, stderr } = await cli(cwd, "run", "--interpreter", SYSTEM_PYTHON, ...flags, "-c", code);
  return stdout.trim() || stderr.trim();
}

const reading = (...paths: string[]): string =>
  `for path in ${JSON.stringify(paths)}:
  try: print(open(path).read(4).strip(), end=" ")
  except OSError: print("no", end=" ")`;

/** An "interpreter" that leaves a trace where no worker may. */
function plantVenv(project: string, trace: string): void {
  mkdirSync(join(project, ".venv/bin"), { recursive: true });
  writeFileSync(join(project, ".venv/pyvenv.cfg"), "home = /usr/bin\n");
  writeFileSync(join(project, ".venv/bin/python"), `#!/bin/sh\nid > '${trace}'\nexec ${SYSTEM_PYTHON} "$@"\n`);
  chmodSync(join(project, ".venv/bin/python"), 0o755);
}

// ---- what runs before the sandbox ----

test.skipIf(!hasPython)("a project's own python is not run to ask which one it is", async () => {
  const project = folder();
  const trace = join(project, "trace");
  plantVenv(project, trace);
  writeFileSync(join(project, "main.py"), "print('main')");
  await cli(project, "run", "main.py");
  expect(existsSync(trace)).toBe(false);
});

test.skipIf(!hasPython)("nor one that the first line of a script names", async () => {
  const project = folder();
  const trace = join(project, "trace");
  plantVenv(project, trace);
  writeFileSync(join(project, "main.py"), "#!.venv/bin/python\nprint('main')");
  await cli(project, "run", "main.py");
  expect(existsSync(trace)).toBe(false);
});

test.skipIf(!hasPython)(
  "nor one on a PATH of the script's, and the user's is asked nothing with variables of the script's",
  async () => {
    const [project, shims] = [folder(), folder()];
    const trace = join(project, "trace");
    for (const [path, text] of [
      [join(project, "python3"), `#!/bin/sh\necho asked > '${trace}'\nexec ${SYSTEM_PYTHON} "$@"\n`],
      [join(shims, "python3"), `#!/bin/bash\nexec ${SYSTEM_PYTHON} "$@"\n`], // as pyenv has it
    ] as const) {
      writeFileSync(path, text);
      chmodSync(path, 0o755);
    }
    writeFileSync(join(project, "variables"), `echo asked > '${trace}'\n`);
    const env = { ...home.env, PATH: `${shims}:${home.env.PATH}` };
    for (const [variable, said] of [
      ["PATH=/proc/self/cwd", ""],
      ["BASH_ENV=/proc/self/cwd/variables", "main\n"],
    ] as const) {
      writeFileSync(join(project, "main.py"), `#!/usr/bin/env -S ${variable} python3\nprint('main')`);
      const command = [join(ROOT, "bin/ipcctl"), "run", "--policy", "strict", "main.py"];
      const child = Bun.spawn(command, { cwd: project, env, stdio: ["ignore", "pipe", "pipe"] });
      expect({ variable, said: (await outcomeOf(child)).stdout, isAsked: existsSync(trace) }).toEqual({
        ...{ variable, said, isAsked: false },
      });
    }
  },
);

test.skipIf(!hasPython)("a worker that may write into its project does not choose what starts it again", async () => {
  const [project, outside] = [folder(), folder()];
  const trace = join(outside, "trace");
  const code = `
import os, sys
project = ${JSON.stringify(project)}
os.makedirs(f"{project}/.venv/bin", exist_ok=True)
open(f"{project}/.venv/pyvenv.cfg", "w").write("home = /usr/bin")
with os.fdopen(os.open(f"{project}/.venv/bin/python", os.O_CREAT | os.O_WRONLY, 0o777), "w") as file:
    file.write("#!/bin/sh\\nid > '${trace}'\\nexec ${SYSTEM_PYTHON} \\"$@\\"\\n")
sys.exit(1)`;
  writeFileSync(join(project, "job.py"), code);
  await cli(project, "start", "job.py", "--name", "planter", "--policy", "strict", "--allow-write", project);
  await waitUntil(() => existsSync(join(project, ".venv/bin/python")), "it has planted");
  await waitUntil(async () => (await home.status("planter")).state !== "Running", "it has ended");
  await cli(project, "restart", "planter");
  await cli(project, "delete", "planter", "-f");
  expect(existsSync(trace)).toBe(false);
});

test.skipIf(!isRoot || !hasPython)("a health check is not run as root where the worker is not", async () => {
  const project = folder();
  const trace = join(home.dir, `health-${count}`);
  const check = join(project, "check.sh");
  writeFileSync(check, "#!/bin/sh\nexit 0\n");
  chmodSync(check, 0o777);
  const script = home.script(
    "healthy.py",
    `import time\nopen(${JSON.stringify(check)}, "w").write("#!/bin/sh\\nid > '${trace}'\\n")\ntime.sleep(60)`,
  );
  const start = home.start("healthy", script, {
    interpreter: SYSTEM_PYTHON,
    policy: policy({ files: { write: [project] } }),
    health_check: { check_type: { type: "exec", command: check }, interval: 500 },
  });
  expect(start.catch((error: Error) => error.message)).resolves.toContain(`covers ${check}`); // nothing starts
  await start.catch(() => undefined);
  expect(existsSync(trace)).toBe(false);
});

test("types are read with no module of the folder one is in", async () => {
  const project = folder();
  writeFileSync(join(project, "ast.py"), `open(${JSON.stringify(join(project, "trace"))}, "w")`);
  writeFileSync(join(project, "main.py"), "");
  await cli(project, "types", "main.py");
  expect(existsSync(join(project, "trace"))).toBe(false);
});

// ---- links where a worker may write ----

test.skipIf(!isRoot || !hasPython)("a log that became a link is not followed, nor a file of variables", async () => {
  const [project, granted, outside] = [folder(), folder(), folder()];
  const [stolen, secret] = [join(outside, "stolen"), join(outside, "secret.env")];
  writeFileSync(secret, "SECRET_OF_ROOT=hunter2", { mode: 0o600 });
  writeFileSync(join(granted, "env"), "A=1");
  chmodSync(join(granted, "env"), 0o666);
  const code = `
import os, sys
print("SECRET", os.environ.get("SECRET_OF_ROOT"), flush=True)
for name, target in (("out.log", ${JSON.stringify(stolen)}), ("env", ${JSON.stringify(secret)})):
    path = ${JSON.stringify(granted)} + "/" + name
    if os.path.lexists(path): os.unlink(path)
    os.symlink(target, path)
sys.exit(1)`;
  writeFileSync(join(project, "job.py"), code);
  writeFileSync(
    join(project, "ipcctl.json"),
    JSON.stringify({
      apps: [
        {
          name: "linker",
          script: "job.py",
          interpreter: SYSTEM_PYTHON,
          policy: policy({ files: { write: [granted] } }),
          stdout_log: join(granted, "out.log"),
          env_file: join(granted, "env"),
        },
      ],
    }),
  );
  const { status, stderr } = await cli(project, "start");
  expect({ status, stderr }).toEqual({ status: 5, stderr: expect.stringContaining(`files.write ${granted} covers`) });
  expect(existsSync(stolen)).toBe(false);
});

test.skipIf(!hasPython)("a grant below one that may be written does not go where a link leads", async () => {
  const [granted, outside] = [folder(), folder()];
  writeFileSync(join(outside, "secret"), "KEY!");
  symlinkSync(outside, join(granted, "in")); // as a run before may have left it
  const file = policy({ files: { write: [granted], read: [join(granted, "in")] } });
  expect(await python(["--policy", file], reading(join(granted, "in/secret")))).not.toContain("KEY!");
});

// ---- what a policy says, and what it does ----

test.skipIf(!hasPython)("what is denied is denied, whatever grants it", async () => {
  const data = folder();
  mkdirSync(join(data, "sub"));
  for (const name of ["secret", "sub/secret"]) writeFileSync(join(data, name), "KEY!");
  const secret = join(data, "secret");
  const cases: [name: string, more: object, path: string][] = [
    ["exec", { process: { exec: true }, files: { exec: [data], deny: [secret] } }, secret],
    ["devices", { process: { devices: [data] }, files: { deny: [secret] } }, secret],
    ["a folder above", { files: { read: [join(data, "sub")], deny: [data] } }, join(data, "sub/secret")],
    ["/proc", { process: { procfs: "all" }, files: { deny: ["/proc/version"] } }, "/proc/version"],
    ["hosts", { network: { mode: "allow", allow: ["a.test:1"] }, files: { deny: ["/etc/hosts"] } }, "/etc/hosts"],
  ];
  const got: Record<string, string> = {};
  for (const [name, more, path] of cases) {
    const { stdout, status } = await cli(
      home.dir,
      ...["run", "--interpreter", SYSTEM_PYTHON, "--policy", policy(more), "-c", reading(path)],
    );
    // Refused is as good; the empty file that covers another is none.
    got[name] = status !== 0 || stdout.trim() === "no" || stdout.trim() === "" ? "denied" : stdout;
  }
  expect(got).toEqual(Object.fromEntries(cases.map(([name]) => [name, "denied"])));
});

const UNIX = `
import socket, sys
for path in sys.argv[1:]:
    try: socket.socket(socket.AF_UNIX).connect(path.replace("@", "\\0")); print("connected", end=" ")
    except OSError: print("no", end=" ")`;

test.skipIf(!hasPython)("a network that is granted grants no Unix sockets", async () => {
  const path = join(folder(), "sock");
  const abstract = `@ipcctl-red-team-${process.pid}`;
  const listener = Bun.spawn(
    [
      SYSTEM_PYTHON,
      "-c",
      `import os, socket, sys
for address in sys.argv[1:]:
    one = socket.socket(socket.AF_UNIX); one.bind(address.replace("@", "\\0")); one.listen(8); globals()[address] = one
os.chmod(sys.argv[1], 0o777); print("ready", flush=True); sys.stdin.read()`,
      path,
      abstract,
    ],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  await listener.stdout.getReader().read();
  const script = home.script("unix.py", UNIX);
  const bare = policy({ isolation: { want: [] } });
  const none = policy({ isolation: { want: [] }, network: { mode: "any", unix: "none" } });
  const got: string[] = [];
  for (const flags of [
    ["--policy", "strict", "--allow-net"],
    ["--policy", bare, "--allow-net"],
    ["--policy", none],
  ])
    got.push(
      (
        await cli(home.dir, "run", "--interpreter", SYSTEM_PYTHON, ...flags, script, "--", path, abstract)
      ).stdout.trim(),
    );
  listener.kill();
  await listener.exited;
  expect(got).toEqual(["no no", "no no", "no no"]);
});

const COMMAND = `
import os, subprocess, sys
print(subprocess.run([sys.argv[1], "start", "--command", f"touch '{sys.argv[2]}'", "--policy", "trusted", "--name", sys.argv[3], "--restart", "no"],
    env={**os.environ, "IPCCTL_HOME": sys.argv[4]}, capture_output=True, text=True).stderr)`;

for (const name of ["no-network", "read-only"])
  test(`what is run once under ${name} does not command the daemon`, async () => {
    (await home.connect()).close(); // there is one
    const trace = join(home.dir, `trace-${name}`);
    const script = home.script("command.py", COMMAND);
    const args = [join(ROOT, "bin/ipcctl"), trace, `by-${name}`, home.env.IPCCTL_HOME!];
    const { stdout } = await cli(home.dir, "run", "--policy", name, script, "--", ...args);
    expect(stdout).toMatch(/may not control the daemon|EACCES/); // the second: it tried to start one of its own
    expect((await home.cli("status", `by-${name}`)).status).toBe(4);
    expect(existsSync(trace)).toBe(false);
  });

test("a worker does not command the shim of another", async () => {
  const victim = home.script("victim.py", "import time; time.sleep(60)");
  const attacker = home.script(
    "attacker.py",
    `
import socket, struct, sys
one = socket.socket(socket.AF_UNIX)
one.settimeout(3)
try:
    one.connect(${JSON.stringify(join(home.env.IPCCTL_HOME!, "state/workers/victim/sock"))})
    one.send(struct.pack("<IBIB", 6, 33, 9, 0))
    print("answered", one.recv(100))
except OSError as error:
    print("refused", error)
`,
  );
  await home.start("victim", victim, { policy: "read-only" });
  await waitUntil(async () => (await home.status("victim")).pid !== null, "it runs");
  const { pid } = await home.status("victim");
  await home.start("attacker", attacker, { policy: "read-only", restart_policy: "no" });
  await waitUntil(async () => (await home.lines("attacker")).length > 0, "it has tried");
  expect((await home.lines("attacker")).join()).not.toContain("answered");
  expect((await home.status("victim")).pid).toBe(pid);
});

test.skipIf(!hasPython)("under read-only the shared memory of other processes cannot be changed", async () => {
  const code = (what: string): string => `
import ctypes
libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_void_p
id = libc.shmget(${0x5254_0000 + (process.pid % 65_536)}, 4096, 0o1600); at = libc.shmat(id, None, 0) if id >= 0 else None
${what}`;
  const run = (what: string): string =>
    Bun.spawnSync([SYSTEM_PYTHON, "-c", code(what)], { stderr: "inherit" })
      .stdout.toString()
      .trim();
  run('ctypes.memmove(at, b"before\\0", 7)');
  await cli(
    home.dir,
    ...["run", "--interpreter", SYSTEM_PYTHON, "--policy", "read-only", "-c"],
    code('at and ctypes.memmove(at, b"after!\\0", 7)'),
  );
  expect(run("print(ctypes.string_at(at).decode()); libc.shmctl(id, 0, None)")).toBe("before");
});

test("a beginning of a dangerous variable is as dangerous", async () => {
  for (const name of ["LD*", "PY*", "L*", "http*", "SSH*"]) {
    const { stderr } = await cli(home.dir, "policy", "check", policy({ env: { allow: [name] } }));
    expect({ name, stderr }).toEqual({ name, stderr: expect.stringContaining("dangerous") });
  }
});

test("what a policy extends is beside it, not where one happens to be", async () => {
  const [own, elsewhere] = [folder(), folder()];
  writeFileSync(join(own, "policy.json"), '{"version":1,"extends":"./base.json"}');
  writeFileSync(join(own, "base.json"), '{"version":1,"extends":"strict"}');
  writeFileSync(join(elsewhere, "base.json"), '{"version":1,"extends":"trusted"}');
  const { stdout } = await cli(elsewhere, "policy", "explain", join(own, "policy.json"));
  expect(stdout).toContain("seccomp: no sockets");
});

test("a time that is short is not none", async () => {
  const file = policy({ limits: { wallSeconds: 0.0001 } });
  const { stdout } = await cli(
    home.dir,
    "run",
    "--policy",
    file,
    "-c",
    "import time; time.sleep(300); print('not ended')",
  );
  expect(stdout).toBe("");
});

test.skipIf(!hasPython)("what is private may be no more than the limit, however it is asked for", async () => {
  const code = `
import ctypes
libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
size = 32 << 20
def many(flags):
    for n in range(8):
        if libc.mmap(None, size, 3, flags, -1, 0) == 2**64 - 1: return n * 32
    return 256
print(many(0x22), many(0x122))`;
  const [plain, downward] = (await python(["--policy", policy({ limits: { memory: "128M" } })], code)).split(" ");
  expect(Number(plain)).toBeLessThan(128);
  expect(Number(downward)).toBeLessThan(128);
});

test("limits beyond what the kernel counts are an error in words", async () => {
  for (const limits of [{ memory: "9223372036854775807" }, { memory: "9999999999T" }, { wallSeconds: 1e308 }]) {
    const { stderr } = await cli(home.dir, "run", "--policy", policy({ limits }), "-c", "pass");
    expect(stderr).not.toMatch(/out of range|Not an integer/);
  }
});

test("hosts that the shim cannot read are refused, not silently none", async () => {
  for (const host of ["a.123:80", "010.0.0.1:80", "[::1/200]:80", "[:::]:80"]) {
    const { stderr } = await cli(home.dir, "policy", "check", policy({ network: { mode: "allow", allow: [host] } }));
    expect({ host, stderr }).toEqual({ host, stderr: expect.stringContaining("HOST:PORT") });
  }
});

test.skipIf(!hasPython)("a link in place of a script, and of its python, shows no other file", async () => {
  const [project, outside] = [folder(), folder()];
  writeFileSync(join(outside, "secret"), "KEY!");
  mkdirSync(join(project, ".venv/bin"), { recursive: true });
  writeFileSync(join(project, ".venv/pyvenv.cfg"), "home = /usr/bin\n");
  symlinkSync("/usr/bin/cat", join(project, ".venv/bin/python"));
  symlinkSync(join(outside, "secret"), join(project, "main.py"));
  expect((await cli(project, "run", "main.py")).stdout).not.toContain("KEY!");
});

test("what is granted is told: /proc, devices, files of names, the environment", async () => {
  const file = policy({
    process: { procfs: "all", devices: ["/dev/zero"] },
    network: { mode: "allow", allow: ["a.test:1"] },
    env: { allow: ["LANG"] },
  });
  const { stdout } = await cli(home.dir, "policy", "explain", file);
  for (const what of ["/proc", "/dev/zero", "/etc/hosts", "LANG"]) expect(stdout).toContain(what);
});

test.skipIf(!isRoot || !hasPython)("without namespaces a daemon that is root starts a strict worker", async () => {
  const script = home.script(
    "bare.py",
    "import tempfile; open(tempfile.gettempdir() + '/left', 'w'); print(tempfile.gettempdir(), flush=True)",
  );
  const bare = policy({ isolation: { want: [] } });
  await home.start("bare", script, { interpreter: SYSTEM_PYTHON, policy: bare, restart_policy: "no" });
  await waitUntil(async () => (await home.lines("bare")).length > 0, "it says something");
  const [scratch] = await home.lines("bare");
  expect(scratch).toStartWith("/var/tmp/ipcctl-scratch-");
  expect(existsSync(join(scratch!, "left"))).toBe(true);
  expect((await home.cli("delete", "bare")).status).toBe(0);
  expect(existsSync(dirname(scratch!))).toBe(false); // it was the only one
});

test.skipIf(!isRoot || !hasPython)("nor does it matter there that only root may look into the checkout", async () => {
  const closed = folder();
  const app = copyOfApp(join(closed, "app"));
  chmodSync(closed, 0o700);
  const args = ["run", "--interpreter", SYSTEM_PYTHON, "--policy", policy({ isolation: { want: [] } })];
  const child = Bun.spawn([join(app, "bin/ipcctl"), ...args, "-c", "print('ran')"], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect((await outcomeOf(child)).stdout).toBe("ran\n");
});

// ---- where one is ----

test.skipIf(!hasPython)("in the root of the machine things run, and analysis does not read all of it", async () => {
  expect(await python([], "print('ran')", "/")).toBe("ran");
  expect(await python(["--policy", "analysis"], reading("/etc/passwd"), "/")).not.toContain("root");
});

test.skipIf(!hasPython)("a folder that is read does not take the scratch folder's place", async () => {
  const code = "import tempfile; tempfile.TemporaryFile(); print('written')";
  expect(await python(["--allow-read", "/tmp"], code)).toBe("written");
});

test("a path that is empty grants nothing", async () => {
  for (const flag of ["--allow-read=", "--allow-write="])
    expect((await cli(folder(), "run", flag, "-c", "print('ran')")).status).not.toBe(0);
});

test.skipIf(!hasPython)("killed at once, run leaves nothing behind", async () => {
  const marker = `red-team-${process.pid}`;
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "run", "-c", `import time; time.sleep(60) # ${marker}`], {
    env: { ...home.env, TMPDIR: folder() },
    stdio: ["ignore", "ignore", "ignore"],
  });
  const isThere = (): boolean => workersWith(marker).length > 0;
  await waitUntil(isThere, "it runs");
  for (const pid of [...childrenOf(child.pid).filter((pid) => !commandOf(pid).includes("ipcctl-shim")), child.pid])
    process.kill(pid, "SIGKILL");
  await waitUntil(() => workersWith(marker).length === 0, "it is gone");
});

test.skipIf(!hasPython)(
  "what runs have left that were killed is removed by the next one, and nothing else",
  async () => {
    const temporary = folder();
    const bare = policy({ isolation: { want: [] } }); // so that there is a scratch folder
    const run = (code: string) =>
      Bun.spawn([join(ROOT, "bin/ipcctl"), "run", "--policy", bare, "--interpreter", SYSTEM_PYTHON, "-c", code], {
        env: { ...home.env, TMPDIR: temporary },
        stdio: ["pipe", "pipe", "ignore"],
      });
    const waits = "import os; open(os.environ['TMPDIR'] + '/left', 'w'); print('begun', flush=True); input()";
    const runs = [run(waits), run(waits)];
    const folders: string[] = [];
    for (const one of runs) {
      await one.stdout.getReader().read();
      folders.push(...readdirSync(temporary).filter((name) => !folders.includes(name)));
    }
    expect(folders).toHaveLength(2);
    const [killed, alive] = runs;
    // A folder of the same name that has no lock, and one that is a link.
    mkdirSync(join(temporary, "ipcctl-run-other"));
    const outside = folder();
    writeFileSync(join(outside, "lock"), "");
    symlinkSync(outside, join(temporary, "ipcctl-run-link"));
    killed!.kill("SIGKILL");
    await killed!.exited;
    const old = new Date(Date.now() - 3_600_000);
    for (const path of [...folders.map((name) => join(temporary, name)), outside])
      utimesSync(join(path, "lock"), old, old);
    const left = async (): Promise<string[]> => {
      await run("pass").exited;
      return readdirSync(temporary).toSorted();
    };
    const alone = folders.filter((name) => isLocked(join(temporary, name, "lock")));
    expect(alone).toHaveLength(1);
    await waitUntil(async () => (await left()).length === 3, "the killed run's folder is gone");
    expect(await left()).toEqual([...alone, "ipcctl-run-link", "ipcctl-run-other"].toSorted());
    expect(existsSync(join(temporary, alone[0]!, "scratch/left"))).toBe(true);
    alive!.kill("SIGKILL");
    await alive!.exited;
  },
);

function isLocked(path: string): boolean {
  const { ino } = statSync(path);
  return new RegExp(`FLOCK .*:${ino} `).test(readFileSync("/proc/locks", "utf8"));
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1");
  } catch {
    return "";
  }
}

function workersWith(marker: string): number[] {
  return [...new Bun.Glob("[0-9]*").scanSync({ cwd: "/proc", onlyFiles: false })]
    .map(Number)
    .filter((pid) => /python/.test(commandOf(pid).split("\0")[0]!) && commandOf(pid).includes(marker));
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim().split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

// ---- what holds, and is to go on holding ----

const HELD = `
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    return libc.syscall(ctypes.c_long(number), *[ctypes.c_long(one) for one in args]), errno.errorcode.get(ctypes.get_errno())
high, nobody, other = 1 << 32, 0x7FFFFF00, os.getppid() or 1  # a user who is not: his processes stay as fast as they are, come what may
print([call(*one)[1] for one in (
    (9, 0, 4096, 3, 0x21 | high, -1, 0), (9, 0, 4096, 3, 0x23, -1, 0), (56, 0x11 | high, 0, 0, 0, 0), (41, 1 | high, 1, 0),
    (53, 1, 2, 0, 0), (53, 1, 3, 0, 0), (62, other, 0), (62, -1, 0), (62, 0, 0), (200, os.getpid(), 0),
    (234, other, other, 0), (302, other, 7, 0, 0), (434, other, 0), (59, 0, 0, 0, 0, 0), (322, -100, 0, 0, 0, 0),
    (72, 1, 8, 0), (72, 1, 10, 0), (72, 1, 15, 0), (141, 2, nobody, 5), (157, 4, 0, 0, 0, 0))])`;

test.skipIf(!isX64 || !hasPython)("high halves of arguments change nothing; others are not to be reached", async () => {
  const errors = Array.from({ length: 20 }, (_, index) => (index < 2 ? "ENOMEM" : "EPERM"));
  expect(await python([], HELD)).toBe(`[${errors.map((one) => `'${one}'`).join(", ")}]`);
});

test.skipIf(!hasCompiler)("of the token nothing is left in the registers", async () => {
  const source = home.script(
    "registers.c",
    `__attribute__((naked)) void _start(void) { __asm__("push %r8; push %r10; mov %rsp,%rsi; mov $16,%edx; mov $1,%edi; mov $1,%eax; syscall; xor %edi,%edi; mov $231,%eax; syscall"); }`,
  );
  const binary = join(home.dir, "registers");
  Bun.spawnSync(["gcc", "-static", "-nostdlib", "-O1", "-o", binary, source]);
  chmodSync(binary, 0o755);
  const { stdout } = await cli(home.dir, "run", "--policy", "strict", "--command", `'${binary}'`);
  expect(stdout).toBe("\0".repeat(16));
});

/**
 * Looks through its own memory for what an exec has to carry, in the filter and by itself, and tries all that it finds.
 */
const TOKEN_HUNT = `
import ctypes, os, re, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.getauxval.restype = libc.sbrk.restype = ctypes.c_ulong
def below(address):
    high = (address | 4095) + 1
    low = high - 4096
    while libc.mincore(ctypes.c_void_p(low - 4096), ctypes.c_size_t(4096), ctypes.create_string_buffer(1)) == 0: low -= 4096
    return ctypes.string_at(low, high - low)
stack, heap = below(libc.getauxval(25)), below(libc.sbrk(0) - 1)  # 25: AT_RANDOM, at the top of the stack
step = rb"\\x20\\x00{3}%s\\x00{3}\\x15\\x00..(....)"  # \\0 before a digit would be an octal number
shape = re.compile(b"".join(step % re.escape(bytes([at])) for at in (0x28, 0x2C, 0x30, 0x34)), re.S)
found = {b"".join(one.groups()) for one in shape.finditer(stack + heap)} - {bytes(16)}
print(len(found), end=" ", flush=True)
path = os.path.realpath(sys.executable).encode()
argv = (ctypes.c_char_p * 4)(path, b"-c", b"print('another program')", None)
envp = (ctypes.c_char_p * 1)(None)
def attempt(number, *args): return libc.syscall(ctypes.c_long(number), *args)
for token in [*found, *(stack[at : at + 16] for at in range(0, len(stack) - 16, 4))]:
    first, second = (ctypes.c_ulong(int.from_bytes(token[at : at + 8], "little")) for at in (0, 8))
    attempt(59, path, argv, envp, first, second)
    attempt(322, -100, path, argv, first, second)
print("none")`;

test.skipIf(!isX64 || !hasPython)("of the token nothing is left in the memory of who is forked", async () => {
  expect((await cli(home.dir, "snapshot", "create", "hunted", "--import", "json")).stderr).toBe("");
  const script = home.script("hunt.py", TOKEN_HUNT);
  const exec = policy({ process: { exec: false } }, "no-network"); // where nothing else denies it
  for (const name of ["strict", exec])
    for (let time = 0; time < 2; time++) {
      const { stdout, stderr } = await cli(home.dir, "run", "--policy", name, "--snapshot", "hunted", script);
      expect({ stdout, stderr }).toEqual({ stdout: "0 none\n", stderr: "" });
    }
});

test.skipIf(!hasPython)("a python that is a real file starts confined while it runs elsewhere", async () => {
  const project = folder();
  expect(
    Bun.spawnSync([SYSTEM_PYTHON, "-m", "venv", "--copies", "--without-pip", join(project, ".venv")]).exitCode,
  ).toBe(0);
  const busy = Bun.spawn([join(project, ".venv/bin/python"), "-c", "input()"], { stdin: "pipe" });
  writeFileSync(join(project, "later.py"), "import sys; print(sys.prefix)");
  const { stdout, stderr } = await cli(project, "run", "--policy", "strict", "later.py");
  busy.kill();
  expect({ stdout, stderr }).toEqual({ stdout: `${join(project, ".venv")}\n`, stderr: "" });
});
