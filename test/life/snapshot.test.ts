/** Snapshots: workers forked from a process that has its imports done. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, copyFileSync, existsSync, readFileSync, readlinkSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ipcctl } from "ipcctl";
import { Home, isAlive, ROOT, waitUntil } from "../home.ts";

/** The command line with its input left open. */
const spawn = (...args: string[]) =>
  Bun.spawn([join(ROOT, "bin/ipcctl"), ...args], { cwd: home.dir, env: home.env, stdio: ["pipe", "pipe", "pipe"] });

let home: Home;
beforeAll(async () => {
  home = new Home();
  chmodSync(home.dir, 0o755); // for users of their own
  home.script("slow_package.py", "import random\nVALUE = random.random()\nSECRETS = []\n");
  home.env.SNAPSHOT_TEST_SECRET = "s3cret";
  const made = await home.cli("snapshot", "create", "one", "--import", "json,decimal,sqlite3");
  expect(made).toEqual({ stdout: "created one: json, decimal, sqlite3\n", stderr: "", status: 0 });
});
afterAll(() => home[Symbol.asyncDispose]());

test("list shows it, a second one of the name is refused, and so is what cannot be imported", async () => {
  const [only] = JSON.parse((await home.cli("snapshot", "list", "--json")).stdout) as Record<string, unknown>[];
  expect(only).toMatchObject({ name: "one", state: "Running", imports: ["json", "decimal", "sqlite3"], policy: null });
  expect((await home.cli("snapshot", "create", "one", "--import", "json")).stderr).toContain("already");
  const bad = await home.cli("snapshot", "create", "bad", "--import", "no_such_module_here");
  expect(bad.stderr).toContain("No module named 'no_such_module_here'");
  expect(bad.status).toBe(1);
  expect((await home.cli("snapshot", "create", "bad", "--import", "a;b")).status).toBe(2);
  expect((await home.cli("snapshot", "list")).stdout.split("\n")).toHaveLength(2); // nothing of it is left
  expect((await home.cli("run", "--snapshot", "other", "-c", "1")).stderr).toContain('no snapshot "other"');
});

test("status shows it with --all or --kind, or by its name, and says its kind", async () => {
  const names = async (...flags: string[]): Promise<string[]> =>
    (JSON.parse((await home.cli("status", "--json", ...flags)).stdout) as { name: string; kind: string }[])
      .map(({ name, kind }) => `${kind} ${name}`)
      .toSorted();
  const mine = await home.cli("start", home.script("of-mine.py", "while True: pass"));
  expect(mine.status).toBe(0);
  expect(await names()).toEqual(["app of-mine"]);
  expect(await names("--all")).toEqual(["app of-mine", "snapshot snapshot-one"]);
  expect(await names("--kind", "snapshot")).toEqual(["snapshot snapshot-one"]);
  expect(await names("snapshot-one")).toEqual(["snapshot snapshot-one"]);
  expect((await home.cli("status", "--kind", "nothing")).stderr).toContain("app, snapshot");
  await home.cli("delete", "of-mine");
});

test("an app that is called like a snapshot is left alone", async () => {
  const script = home.script("like.py", "while True: pass");
  expect((await home.cli("start", script, "--name", "snapshot-like")).status).toBe(0);
  expect(await home.cli("snapshot", "delete", "like")).toMatchObject({
    status: 4,
    stderr: expect.stringContaining("snapshot-like is an app"),
  });
  expect((await home.cli("snapshot", "delete", "Like")).stderr).toContain("snapshot-like is an app");
  const made = await home.cli("snapshot", "create", "like", "--import", "json");
  expect(made).toMatchObject({ status: 1, stderr: expect.stringContaining("would be snapshot-like, which is an app") });
  expect((await home.status("snapshot-like")).kind).toBe("app");
  await home.cli("delete", "snapshot-like");
});

test("errors name a snapshot as it was typed", async () => {
  const told = async (...args: string[]): Promise<string> => (await home.cli("snapshot", ...args)).stderr;
  const unknown = 'ipcctl: there is no snapshot "None"\n  ipcctl snapshot list shows them\n';
  expect(await home.cli("snapshot", "delete", "None")).toMatchObject({ status: 4, stderr: unknown });
  for (const name of ["", "..", "n".repeat(60)])
    expect(await told("create", name, "--import", "json")).toStartWith(
      `ipcctl: snapshot create: ${JSON.stringify(name)} cannot be the name of a snapshot\n  use 1 to 55 characters`,
    );
  expect(await told("create", "my own", "--import", "json", "--interpreter", "/no/such")).toStartWith(
    "ipcctl: Failed to start snapshot my own: /no/such: no such file",
  );
  expect((await home.cli("snapshot", "create", "my own", "--import", "json")).status).toBe(0);
  expect((await home.cli("snapshot", "delete", "My own")).stdout).toBe("My own: deleted\n");
});

test("one that was made before there were kinds does its imports and keeps its policy", async () => {
  await home.cli("snapshot", "create", "before", "--import", "json,decimal");
  const connection = await home.connect();
  const { definition } = await connection.describe("snapshot-before");
  await connection.delete("snapshot-before");
  const { kind: _, ...written } = definition;
  const env = { ...(written.env as object), IPCCTL_SNAPSHOT_POLICY: "strict" };
  const { script, args, interpreter, ready, ready_timeout, console } = written;
  await connection.startApp({
    ...{ name: "snapshot-before", group: "snapshots", cwd: "/", policy: "trusted", kind: "snapshot" },
    ...{ script, args, interpreter, ready, ready_timeout, console, env },
  });
  await connection.waitReady("snapshot-before", 60_000);
  connection.close();
  const all = JSON.parse((await home.cli("snapshot", "list", "--json")).stdout) as Record<string, unknown>[];
  expect(all.find(({ name }) => name === "before")).toMatchObject({ imports: ["json", "decimal"], policy: "strict" });
  await home.cli("snapshot", "delete", "before");
});

test("run: arguments, input, output, environment and exit status are a Python's own", async () => {
  const script = home.script(
    "whole.py",
    `
import sys, os, json
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
print(json.dumps({"argv": sys.argv, "name": __name__, "file": __file__, "path": sys.path[0], "set": os.environ.get("SET"), "loaded": "decimal" in sys.modules,
    "secret": [value for key, value in os.environ.items() if "SECRET" in key], "open": [fd for fd in range(3, 300) if is_open(fd)]}))
print("to stderr", file=sys.stderr)
sys.exit(int(sys.stdin.readline()))
`,
  );
  const child = spawn("run", "--snapshot", "one", "-e", "SET=yes", script, "--", "a", "--b");
  void child.stdin.write("7\n");
  await child.stdin.end();
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  expect(await child.exited).toBe(7);
  expect(stderr).toBe("to stderr\n");
  expect(JSON.parse(stdout)).toEqual({
    ...{ argv: [script, "a", "--b"], name: "__main__", file: script, path: home.dir, set: "yes" },
    ...{ loaded: true, secret: [], open: [198] }, // where a run leaves its last words
  });
  const failing = await home.cli("run", "--snapshot", "one", "-c", "def f(): 1/0\nf()");
  expect(failing.status).toBe(1);
  expect(failing.stderr).toStartWith('Traceback (most recent call last):\n  File "<string>", line 2, in <module>\n');
  expect(failing.stderr).not.toContain("zygote");
  const hidden = await home.cli("run", "--snapshot", "one", "-c", `open(${JSON.stringify(script)})`);
  expect(hidden.stderr).toEndWith(`file ${script}; would grant it: --allow-read ${script}\n`);
  expect(
    (await home.cli("run", "--snapshot", "one", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"))
      .status,
  ).toBe(143);
});

test("the child is confined before its first line, as one that was started", async () => {
  const attempts = `
import os, socket, json
found = {}
for name, attempt in {"socket": socket.socket, "fork": os.fork, "exec": lambda: os.execv("/bin/true", ["true"]), "passwd": lambda: open("/etc/passwd"),
                      "proc": lambda: os.listdir("/proc"), "parent": lambda: os.kill(os.getppid() or 1, 0)}.items():
    try: attempt(); found[name] = "got through"
    except OSError as error: found[name] = "denied"
print(json.dumps(found))
`;
  const { stdout } = await home.cli("run", "--snapshot", "one", "-c", attempts);
  expect(new Set(Object.values(JSON.parse(stdout) as object))).toEqual(new Set(["denied"]));
});

test("whatever was asked for before, a worker has the namespaces of its own policy, and shares none", async () => {
  const kinds = ["net", "ipc", "mnt"];
  const namespaces = (pid: number | string): string[] => kinds.map((kind) => readlinkSync(`/proc/${pid}/ns/${kind}`));
  const ours = namespaces("self");
  const seen: string[] = [];
  const order = [
    "trusted",
    "strict",
    "strict",
    "strict",
    "no-network",
    "strict",
    "strict",
    "trusted",
    "trusted",
    "strict",
  ];
  const children: ReturnType<typeof spawn>[] = [];
  for (const policy of order) {
    const code = "import os; print(os.getpid(), flush=True); input()";
    const child = spawn("run", "--snapshot", "one", "--policy", policy, "-c", code);
    children.push(child);
    const { value } = await child.stdout.getReader().read();
    const its = namespaces(Number(Buffer.from(value!).toString()));
    if (policy === "strict") seen.push(...its);
    else expect(its).toEqual(ours);
  }
  expect(new Set([...seen, ...ours]).size).toBe(seen.length + ours.length);
  for (const child of children) void child.stdin.write("\n");
  expect(await Promise.all(children.map(({ exited }) => exited))).toEqual(order.map(() => 0));
});

test("two children share no randomness and none of the state", async () => {
  const code = "import random, uuid, os; print(random.random(), uuid.uuid4(), os.urandom(4).hex(), os.getpid())";
  const runs = await Promise.all([1, 2, 3].map(() => home.cli("run", "--snapshot", "one", "-c", code)));
  const words = runs.flatMap(({ stdout }) => stdout.trim().split(" "));
  expect(new Set(words.slice(0, 3)).size + new Set(words).size).toBe(3 + words.length);
});

test("a worker that was forked is supervised, called, looked into, restarted and stopped like any other", async () => {
  const script = home.script(
    "served.py",
    `import ipcctl, os\n@ipcctl.expose\ndef pid(): return os.getpid()\nprint("begun", flush=True)\nipcctl.serve()\n`,
  );
  using ipc = new Ipcctl(await home.connect());
  for (const policy of ["strict", "no-network", "trusted"]) {
    const py = await ipc.start(script, { cwd: home.dir, policy, snapshot: "one", name: `of-${policy}` });
    const status = await home.status(`of-${policy}`);
    expect(await py.eval("__import__('os').getpid() > 0 and 'decimal' in __import__('sys').modules")).toBe(true);
    if (policy === "trusted") expect(await py.call("pid")).toBe(status.pid!);
    await waitUntil(async () => (await home.lines(`of-${policy}`)).includes("begun"), "its output is logged");
    process.kill(status.pid!, "SIGKILL");
    await waitUntil(async () => {
      const { pid, state } = await home.status(`of-${policy}`);
      return state === "Running" && pid !== status.pid;
    }, "it runs again");
    expect((await home.status(`of-${policy}`)).last_exit_signal).not.toBeNull();
    expect((await home.cli("stop", `of-${policy}`)).status).toBe(0);
    await waitUntil(() => !isAlive(status.pid!), "it is gone");
  }
});

test("an unmodified script that was forked can be looked into", async () => {
  home.script("plain.py", "import time\nqueue = [1, 2]\nwhile True: time.sleep(0.01)\n");
  expect((await home.cli("start", "plain.py", "--snapshot", "one")).status).toBe(0);
  expect((await home.cli("eval", "plain", "len(queue)")).stdout).toBe("2\n");
  expect((await home.cli("delete", "plain", "-f")).status).toBe(0);
});

test("whoever asked for it is killed: so is what was forked; the snapshot is killed: so is all of it, and all comes back", async () => {
  const pids = home.script(
    "pids.py",
    "import os, time\nopen('one-pid', 'w').write(str(os.getpid()))\nwhile True: time.sleep(0.01)\n",
  );
  const file = join(home.dir, "one-pid");
  const child = spawn("run", "--snapshot", "one", "--policy", "trusted", pids);
  await waitUntil(() => existsSync(file) && readFileSync(file, "utf8") !== "", "it runs");
  const pid = Number(readFileSync(file, "utf8"));
  const shim = Bun.spawnSync(["pgrep", "-P", `${child.pid}`])
    .stdout.toString()
    .trim();
  process.kill(Number(shim), "SIGKILL");
  await waitUntil(() => !isAlive(pid), "it ended with its shim");
  await child.exited;

  expect((await home.cli("start", "pids.py", "--snapshot", "one")).status).toBe(0);
  const before = await home.status("pids");
  process.kill((await home.status("snapshot-one")).pid!, "SIGKILL");
  await waitUntil(async () => {
    const { state, pid: now } = await home.status("pids");
    return state === "Running" && now !== before.pid;
  }, "both are back");
  expect((await home.cli("delete", "pids", "-f")).status).toBe(0);
});

test("garbage and strangers get nothing from a snapshot, and it goes on", async () => {
  const socket = join(home.env.IPCCTL_HOME!, "state/workers/snapshot-one/fork");
  const knock = `
import os, socket, struct, sys
def ask(data):
    s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(${JSON.stringify(socket)})
    try: socket.send_fds(s, [data], [0, 1, 2, 2]); s.shutdown(socket.SHUT_WR); return s.recv(100)
    except OSError as error: return error.errno
shim = ${JSON.stringify(join(ROOT, "native/build/ipcctl-shim"))}
print([ask(data) for data in (b"", b"x", struct.pack("<IIB", 5, 0, 15) + b"hello", struct.pack("<IIB", 2**32 - 1, 0, 255), os.urandom(10000))])
`;
  for (const command of [
    ["python3", "-c", knock],
    [join(ROOT, "bin/ipcctl"), "run", "--policy", "no-network", "-c", knock],
  ]) {
    const { stdout } = Bun.spawnSync(command, { cwd: home.dir, env: home.env, stderr: "inherit" });
    expect(stdout.toString()).not.toMatch(/b'[^']/); // no pid comes back
  }
  // The same from what passes for a free shim; and from one that says nothing at all, while others ask.
  const shim = join(home.dir, "ipcctl-shim");
  const [python, prefix] = Bun.spawnSync(["python3", "-c", "import sys; print(sys.executable, sys.base_prefix)"])
    .stdout.toString()
    .trim()
    .split(" ") as [string, string];
  copyFileSync(realpathSync(python), shim);
  const env = { ...home.env, PYTHONHOME: prefix };
  expect(Bun.spawnSync([shim, "-c", knock], { env, stderr: "inherit" }).success).toBe(true);
  const silence = `import socket; s = socket.socket(socket.AF_UNIX); s.connect(${JSON.stringify(socket)}); print(1, flush=True); s.recv(1)`;
  const silent = Bun.spawn([shim, "-c", silence], { env, stdout: "pipe" });
  await silent.stdout.getReader().read();
  expect((await home.cli("run", "--snapshot", "one", "-c", "print(1)")).stdout).toBe("1\n");
  silent.kill("SIGKILL");
  await silent.exited;
  // A worker that is the user, all but the network, may have a shim of its own; it is confined like the worker.
  const spec = join(home.dir, "spec");
  const { encodeSpec } = await import("../../src/shim/spec.ts");
  const proof = join(home.dir, "proof");
  const wanted = {
    run: 1,
    argv: ["python3", "-c", `import socket; socket.socket(); open(${JSON.stringify(proof)}, "w")`],
    env: {},
    cwd: "/",
    stop: { graceMs: 100, signal: 15 },
    zygote: socket,
  };
  writeFileSync(spec, encodeSpec(wanted));
  const byShim = `import subprocess; subprocess.run([${JSON.stringify(join(ROOT, "native/build/ipcctl-shim"))}, "--run", ${JSON.stringify(spec)}], timeout=2)`;
  expect((await home.cli("run", "--policy", "no-network", "-c", byShim)).status).toBe(1);
  expect(existsSync(proof)).toBe(false);
  writeFileSync(spec, encodeSpec(wanted));
  Bun.spawnSync([join(ROOT, "native/build/ipcctl-shim"), "--run", spec]);
  expect(existsSync(proof)).toBe(true); // the same from a free one works
  writeFileSync(spec, encodeSpec({ ...wanted, cwd: "/nowhere" }));
  const failed = Bun.spawnSync([join(ROOT, "native/build/ipcctl-shim"), "--run", spec]);
  expect(failed.stderr.toString()).toBe("ipcctl: /nowhere: No such file or directory (cwd)\n");
  expect(failed.exitCode).toBe(126);
  const pid = (await home.status("snapshot-one")).pid!;
  const [spare] = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim().split(" ").map(Number);
  process.kill(spare!, "SIGKILL"); // the one in store: another takes its place
  const many = await Promise.all(
    Array.from({ length: 30 }, (_, index) => home.cli("run", "--snapshot", "one", "-c", `print(${index})`)),
  );
  expect(many.map(({ stdout }) => Number(stdout))).toEqual(Array.from({ length: 30 }, (_, index) => index));
  expect((await home.status("snapshot-one")).pid).toBe(pid);
}, 60_000);

test("what is installed changes: the snapshot imports anew before it forks again", async () => {
  const venv = join(home.dir, "venv");
  expect(Bun.spawnSync(["python3", "-m", "venv", "--without-pip", venv]).success).toBe(true);
  const python = join(venv, "bin/python");
  expect((await home.cli("snapshot", "create", "two", "--import", "json", "--interpreter", python)).status).toBe(0);
  const run = (): Promise<{ stdout: string }> =>
    home.cli(
      "run",
      "--snapshot",
      "two",
      "--policy",
      "trusted",
      "-c",
      "import sys; print('added' in sys.modules, *(entry for entry in sys.path if entry.endswith('site-packages')))",
    );
  const [, folder = ""] = (await run()).stdout.trim().split(" ");
  expect(folder).toStartWith(venv);
  const { pid, restarts } = await home.status("snapshot-two");
  const code = "import os, time; print(os.getpid(), flush=True); time.sleep(100)";
  const running = spawn("run", "--snapshot", "two", "--policy", "trusted", "-c", code);
  const its = Number(Buffer.from((await running.stdout.getReader().read()).value!).toString());
  await Bun.write(join(folder, "ready.pth"), "import added\n");
  await Bun.write(join(folder, "added.py"), "");
  expect((await run()).stdout).toStartWith("True");
  expect(await home.status("snapshot-two")).toMatchObject({ pid, restarts }); // the same process, begun anew
  expect(await running.exited).toBe(137);
  expect(isAlive(its)).toBe(false); // what was forked from it before has ended
});

test("delete ends it, and what asks for it afterwards is refused by its name", async () => {
  expect((await home.cli("snapshot", "delete", "one")).status).toBe(0);
  expect((await home.cli("run", "--snapshot", "one", "-c", "1")).status).toBe(4);
});
