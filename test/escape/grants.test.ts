/** What a policy grants works: also as root, where the worker is another user, and together with other grants. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readFileSync,
  statfsSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { thisMachine } from "../../src/sandbox/kernel.ts";
import { mapLack } from "../../src/sandbox/writer.ts";
import { Home, outcomeOf, ROOT, waitUntil } from "../home.ts";
import { isRoot, skipUnless, SYSTEM_PYTHON } from "../needs.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
  chmodSync(home.dir, 0o755);
});
afterAll(() => home[Symbol.asyncDispose]());

/** `ipcctl run` with the system's Python. */
const ran = (...more: string[]): ReturnType<Home["cli"]> => home.cli("run", "--interpreter", SYSTEM_PYTHON, ...more);
const hasNamespaces = (): boolean => thisMachine().namespacesLack === "";
/** ext, XFS, Btrfs and tmpfs: from Linux 6.3 on all of them can be mounted so that their files are another's. */
const MAPPABLE = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];
/** Where the kernel is known to do it, whatever our own probe of it says. */
function canMap(): boolean {
  const [major, minor] = readFileSync("/proc/sys/kernel/osrelease", "latin1").split(".").map(Number);
  const isKnown = (major! > 6 || (major === 6 && minor! >= 3)) && MAPPABLE.includes(statfsSync(home.dir).type);
  return isKnown || mapLack(home.dir) === "";
}
const policy = (name: string, said: object): string =>
  home.script(name, JSON.stringify({ version: 1, extends: "analysis", ...said }));

// ---- files that are written as root ----

const RESULT = `
import os, sys
os.makedirs("OUT/sub", exist_ok=True)
for path in ("OUT/result", "OUT/sub/result"):
    with open(path, "w") as file: file.write(sys.argv[1])
print(os.getuid(), os.stat("OUT/result").st_uid == os.getuid())
`;

/** A folder of that user, and a script that writes into it. */
function folderOf(name: string, uid: number): { folder: string; script: string } {
  const folder = join(home.dir, name);
  mkdirSync(folder);
  chownSync(folder, uid, uid);
  return { folder, script: home.script(`${name}.py`, RESULT.replaceAll("OUT", folder)) };
}

function ownersOf(folder: string): number[] {
  return ["result", "sub", "sub/result"].map((name) => statSync(join(folder, name)).uid);
}

test("what a worker of root writes belongs to the folder's owner, and the next run can overwrite it", async () => {
  if (skipUnless(isRoot, "root", "files of root")) return;
  if (skipUnless(hasNamespaces() && canMap(), "id-mapped mounts", "files of root")) return;
  for (const uid of [0, 4321]) {
    const { folder, script } = folderOf(`of-${uid}`, uid);
    for (const text of ["first", "second"]) {
      const { stdout, stderr } = await ran("--policy", "analysis", "--allow-write", folder, script, "--", text);
      expect({ stderr, stdout }).toEqual({ stderr: "", stdout: expect.stringMatching(/^3\d{9} True\n$/) });
      expect(readFileSync(join(folder, "sub/result"), "utf8")).toBe(text);
    }
    expect(ownersOf(folder)).toEqual([uid, uid, uid]);
    const started = await home.cli(
      "start",
      script,
      "--name",
      `w-${uid}`,
      "--interpreter",
      SYSTEM_PYTHON,
      "--policy",
      "analysis",
      "--allow-write",
      folder,
      "--",
      "third",
    );
    expect(started).toMatchObject({ status: 0, stderr: "" });
    await waitUntil(() => readFileSync(join(folder, "sub/result"), "utf8") === "third", "a started one has written");
    expect(ownersOf(folder)).toEqual([uid, uid, uid]);
  }
});

test("it leaves no program there that runs as the owner, and what is another's stays so", async () => {
  if (skipUnless(isRoot, "root", "files of root")) return;
  if (skipUnless(hasNamespaces() && canMap(), "id-mapped mounts", "files of root")) return;
  const { folder } = folderOf("mixed", 0);
  const another = join(folder, "another");
  writeFileSync(another, "untouched", { mode: 0o644 });
  chownSync(another, 4321, 4321);
  const script = home.script(
    "bits.py",
    `import os
def attempt(what, act):
    try: act()
    except OSError as error: print(what, type(error).__name__)
    else: print(what, "done")
path = ${JSON.stringify(folder)} + "/program"
os.umask(0)
def make(name, mode):
    fd = os.open(path + name, os.O_CREAT | os.O_RDWR, mode)
    os.write(fd, b"#!/bin/sh\\n")
attempt("make", lambda: make("", 0o755))
attempt("make for others", lambda: make("-2", 0o4777)) # who is root and fills it later leaves the bit
attempt("without a name", lambda: os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o2777))
attempt("node", lambda: os.mknod(path + "-3", 0o106777))
attempt("chmod", lambda: os.chmod(path, 0o4755))
attempt("fchmod", lambda: os.fchmod(os.open(path, os.O_RDONLY), 0o2755))
attempt("plain", lambda: os.chmod(path, 0o755))
attempt("chown", lambda: os.chown(path, 4321, 4321))
attempt("another", lambda: open(${JSON.stringify(another)}, "w"))
`,
  );
  const loose = policy("metadata.json", { files: { read: ["${project}"], scratch: {}, metadata: "allow" } });
  const { stdout } = await ran("--policy", loose, "--allow-write", folder, script);
  expect(stdout.trim().split("\n")).toEqual([
    "make done",
    "make for others PermissionError",
    "without a name PermissionError",
    "node PermissionError",
    "chmod PermissionError",
    "fchmod PermissionError",
    "plain done",
    "chown PermissionError",
    "another PermissionError",
  ]);
  expect(statSync(join(folder, "program")).mode & 0o7777).toBe(0o755);
  expect(readFileSync(another, "utf8")).toBe("untouched");
});

test("where mounts cannot be mapped the worker is the folder's owner, and a folder of root is refused by the way out", async () => {
  if (skipUnless(isRoot, "root", "files of root")) return;
  const bare = policy("bare.json", { isolation: { want: [] } });
  const run = (granted: string, script: string): ReturnType<Home["cli"]> =>
    ran("--policy", bare, "--allow-write", granted, script, "--", "x");
  const { folder, script } = folderOf("unmapped", 4321);
  for (let round = 0; round < 2; round++) expect((await run(folder, script)).stdout).toBe("4321 True\n");
  expect(ownersOf(folder)).toEqual([4321, 4321, 4321]);

  const { folder: roots, script: writing } = folderOf("of-root", 0);
  const refused = await run(roots, writing);
  expect(refused).toMatchObject({ status: 5, stdout: "" });
  expect(refused.stderr).toContain(`files.write ${roots} belongs to root`);
  const [, number, path] = /^ {2}chown (\d+) (.*)$/m.exec(refused.stderr)!;
  expect((await run(roots, writing)).stderr).toBe(refused.stderr); // the number stays
  chownSync(path!, Number(number), 0); // as it says
  for (let round = 0; round < 2; round++) expect((await run(roots, writing)).stdout).toBe(`${number} True\n`);
});

test("what is named to a worker of root is readable to it, if it is closed to others", async () => {
  if (skipUnless(isRoot, "root", "files of root")) return;
  if (skipUnless(hasNamespaces() && canMap(), "id-mapped mounts", "files of root")) return;
  const folder = join(home.dir, "closed");
  mkdirSync(folder);
  const code = `import os
for path in ("closed/file", "closed/another", "beside"):
    try: print(path, open(path).read(), os.access(path, os.W_OK))
    except OSError as error: print(path, type(error).__name__)`;
  for (const path of ["closed/file", "closed/another", "beside"])
    writeFileSync(join(home.dir, path), "text", { mode: 0o600 });
  chownSync(join(folder, "another"), 4321, 4321);
  chmodSync(folder, 0o700);
  const script = home.script("closed.py", code);
  chmodSync(script, 0o600);
  const { stdout } = await ran("--allow-read", folder, script);
  expect(stdout).toBe("closed/file text False\nclosed/another PermissionError\nbeside FileNotFoundError\n");
  const { stdout: named } = await ran("--allow-read", join(folder, "file"), script);
  expect(named).toBe("closed/file text False\nclosed/another FileNotFoundError\nbeside FileNotFoundError\n");
  // What is open to others is shown as it is: what is closed in it stays so.
  chmodSync(folder, 0o755);
  const { stdout: open } = await ran("--allow-read", folder, script);
  expect(open).toBe("closed/file PermissionError\nclosed/another PermissionError\nbeside FileNotFoundError\n");
});

// ---- modes and times ----

const MODES = `
import os, sys, tempfile
def attempt(what, act):
    try: act()
    except OSError as error: print(what, error.strerror)
    else: print(what, "done")
for folder in (tempfile.gettempdir(), sys.argv[1]):
    path = os.path.join(folder, "made")
    open(path, "w").close()
    attempt("mode", lambda: os.chmod(path, 0o640))
    attempt("times", lambda: os.utime(path, (1, 1)))
    attempt("set-id", lambda: os.chmod(path, 0o4755))
    attempt("owner", lambda: os.chown(path, os.getuid(), os.getgid()))
    print(oct(os.stat(path).st_mode)[-3:], int(os.stat(path).st_mtime))
attempt("read", lambda: os.chmod(sys.argv[2], 0o600))
attempt("hook", lambda: os.chmod(os.path.join(sys.argv[1], ".git"), 0o700))
attempt("descriptor", lambda: os.fchmod(1, 0o600))
`;

test("modes and times can be changed where it may write, beside its scratch folder, and nowhere else", async () => {
  if (skipUnless(hasNamespaces(), "namespaces", "modes and times")) return;
  if (isRoot && skipUnless(canMap(), "id-mapped mounts", "modes and times")) return;
  const folder = join(home.dir, "modes");
  mkdirSync(join(folder, ".git"), { recursive: true });
  const other = home.script("modes.txt", "");
  const { stdout } = await ran(
    ...["--allow-write", folder, "--allow-read", other],
    ...[home.script("modes.py", MODES), "--", folder, other],
  );
  const here = ["mode done", "times done", "set-id Operation not permitted", "owner Operation not permitted", "640 1"];
  expect(stdout.trim().split("\n")).toEqual([
    ...here,
    ...here,
    "read Read-only file system",
    "hook Read-only file system",
    "descriptor Operation not permitted",
  ]);
});

// ---- programs ----

test("programs that are granted are found by the names that scripts use, and in a scratch folder that may have some", async () => {
  if (skipUnless(hasNamespaces(), "namespaces", "names of programs")) return;
  const code = `
import os, subprocess, tempfile
path = os.path.join(tempfile.gettempdir(), "program")
with open(path, "w") as file: file.write("#!/bin/sh\\necho ran")
os.chmod(path, 0o755)
print(subprocess.check_output("echo shell", shell=True, text=True), end="", flush=True)
try: subprocess.run([path])
except OSError as error: print(type(error).__name__)
`;
  const programs = (name: string, exec: boolean): string =>
    policy(name, { process: { fork: true, exec: true }, files: { exec: ["/usr"], scratch: { size: "64M", exec } } });
  const run = async (name: string, exec: boolean): Promise<string> =>
    (await ran("--policy", programs(name, exec), "-c", code)).stdout;
  expect(await run("programs.json", true)).toBe("shell\nran\n");
  expect(await run("no-programs.json", false)).toBe("shell\nPermissionError\n");
});

// ---- Unix sockets beside hosts ----

const UNIX = `
import asyncio, os, socket, sys, tempfile
PATH, PORT, OTHER = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def attempt(what, act):
    try: print(what, act())
    except OSError as error: print(what, type(error).__name__)
def ask(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
        return one.recv(100).decode()
def tcp(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60): return "connected"
async def streams():
    reader, writer = await asyncio.open_unix_connection(PATH)
    said = (await reader.read(100)).decode()
    writer.close()
    return said
def own():
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "own")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        os.chdir(folder)
        client.connect("own")
        server.accept()[0].sendall(b"own")
        return client.recv(10).decode()
def unbound():
    with socket.socket() as one: return one.listen()
attempt("path", lambda: ask(PATH))
attempt("streams", lambda: asyncio.run(streams()))
attempt("own", own)
attempt("missing", lambda: ask(PATH + "-not"))
attempt("abstract", lambda: ask("\\0ipcctl-grants-" + str(PORT)))
attempt("granted", lambda: tcp(PORT))
attempt("other", lambda: tcp(OTHER))
attempt("listen", unbound)
attempt("bind", lambda: socket.socket().bind(("127.0.0.1", 9)))
`;

/**
 * Whichever is there when the call is looked at, and when it is carried out: a path, and an address that nobody
 * granted.
 */
const FLIP = `
import ctypes, socket, struct, sys, threading
PATH, OTHER = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
unix = struct.pack("<H", socket.AF_UNIX) + PATH.encode() + b"\\0"
inet = struct.pack("<H", socket.AF_INET) + struct.pack(">H", OTHER) + bytes([127, 0, 0, 1]) + bytes(8)
size = max(len(unix), len(inet))
both = [one.ljust(size, b"\\0") for one in (unix, inet)]
address = ctypes.create_string_buffer(both[0], size)
ended = False
def flip():
    while not ended:
        for one in both: ctypes.memmove(address, one, size)
threading.Thread(target=flip, daemon=True).start()
sys.setswitchinterval(1e-5)
reached = 0
for _ in range(2000):
    for family in (socket.AF_INET, socket.AF_UNIX):
        with socket.socket(family) as one:
            one.setblocking(False)
            libc.connect(one.fileno(), address, size)
            try: reached += family == socket.AF_INET and bool(one.getpeername())
            except OSError: pass
ended = True
print("reached", reached)
`;

test("Unix sockets stay where hosts are granted, and are no way to others", async () => {
  if (skipUnless(thisMachine().landlockAbi >= 4, "Landlock of Linux 6.7", "Unix sockets beside hosts")) return;
  const path = join(home.dir, "service");
  const accepted: number[] = [];
  const say = (socket: { end: (text: string) => unknown }): void => void socket.end("hello");
  using service = Bun.listen({ unix: path, socket: { open: say, data: () => undefined } });
  chmodSync(path, 0o777);
  const listen = () =>
    Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: { open: (socket) => void accepted.push(socket.localPort), data: () => undefined },
    });
  using granted = listen();
  using other = listen();
  expect(service.unix).toBe(path);
  const run = (script: string, ...args: string[]): ReturnType<Home["cli"]> =>
    ran("--policy", "no-network", `--allow-net=127.0.0.1:${granted.port}`, script, "--", path, ...args);
  const { stdout, stderr } = await run(home.script("unix.py", UNIX), String(granted.port), String(other.port));
  expect(stderr).toBe("");
  expect(stdout.trim().split("\n")).toEqual([
    "path hello",
    "streams hello",
    "own own",
    "missing FileNotFoundError",
    expect.stringMatching(/^abstract (PermissionError|ConnectionRefusedError)$/),
    "granted connected",
    "other PermissionError",
    "listen PermissionError",
    "bind PermissionError",
  ]);
  // Both by the process that answers for it: Landlock would deny them in silence.
  const recorded = (await home.cli("audit", "--denied", "--json")).stdout.split("\n");
  for (const what of ['"call":"listen"', '"call":"bind","host":null,"address":null,"port":9,'])
    expect(recorded.filter((line) => line.includes(what))).toHaveLength(1);
  expect((await run(home.script("flip.py", FLIP), String(other.port))).stdout).toBe("reached 0\n");
  expect(accepted).toEqual([granted.port]);
});

test("a root that may not trace connects for a worker of its own user, by name and address, and lets it listen", async () => {
  if (skipUnless(isRoot && Bun.which("setpriv") !== null, "root", "hosts without CAP_SYS_PTRACE")) return;
  const code = `
import os, socket, sys
with socket.create_connection(("localhost", int(sys.argv[1])), timeout=60), socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60): pass
with socket.socket() as server:
    server.bind(("127.0.0.1", int(sys.argv[2])))
    server.listen()
print(os.getuid() > 0)
`;
  const script = home.script("untraced.py", code);
  using service = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const port = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  port.stop(true); // nobody's, as far as anybody knows
  const hosts = `--allow-net=localhost:${service.port},127.0.0.1:${service.port}`;
  for (const want of [["namespaces"], []]) {
    const child = Bun.spawn(
      [
        ...["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", join(ROOT, "bin/ipcctl"), "run", hosts],
        ...[
          `--allow-listen=${port.port}`,
          "--policy",
          JSON.stringify({ version: 1, extends: "strict", isolation: { want } }),
        ],
        ...["--interpreter", SYSTEM_PYTHON, script, "--", String(service.port), String(port.port)],
      ],
      { cwd: "/", env: home.env, stdio: ["ignore", "pipe", "pipe"] },
    );
    const { stdout, stderr } = await outcomeOf(child);
    expect([stdout, stderr.replace(/^(not enforced here|  what takes).*\n/gm, "")]).toEqual(["True\n", ""]);
  }
});

// ---- runtimes that look at themselves, and reserve much ----

const own = (said: object = {}): object => ({ extends: "strict", process: { procfs: "self" }, ...said });

const SELF = `
import os
def attempt(what, act):
    try: print(what, act())
    except OSError as error: print(what, type(error).__name__)
def of(path): return open(path).read()
attempt("maps", lambda: "libc" in of("/proc/self/maps"))
attempt("exe", lambda: "python" in os.readlink("/proc/self/exe"))
attempt("fds", lambda: len(os.listdir("/proc/self/fd")) > 2)
attempt("memory", lambda: open("/proc/self/mem", "wb"))
others = 0
for pid in range(os.getpid() == 2 and 2 or 1, 4000): # the first of a namespace of processes waits, and is ours
    try: others += pid != os.getpid() and of(f"/proc/{pid}/cmdline") != ""
    except OSError: pass
print("others", others)
for path in ("/proc/loadavg", "/proc/stat", "/proc/interrupts"): attempt(path, lambda: of(path))
if hasattr(os, "fork"):
    try: pid = os.fork()
    except OSError: raise SystemExit
    if pid == 0:
        attempt("child", lambda: int(of("/proc/self/stat").split()[0]) == os.getpid())
        os._exit(0)
    os.wait()
`;

test("with procfs self a worker sees itself and its children, and no others", async () => {
  const script = home.script("self.py", SELF);
  const missing = expect.stringMatching(/^(FileNotFoundError|PermissionError)$/);
  const run = async (name: string, said: object): Promise<Record<string, string>> => {
    const { stdout, stderr } = await ran("--policy", policy(name, said), script);
    if (stdout === "") throw new Error(stderr);
    return Object.fromEntries(
      stdout
        .trim()
        .split("\n")
        .map((line) => line.split(" ") as [string, string]),
    ) as Record<string, string>;
  };
  const sees = { maps: "True", exe: "True", fds: "True", memory: expect.any(String), others: "0" };
  const machine = { "/proc/loadavg": missing, "/proc/stat": missing, "/proc/interrupts": missing };
  expect(await run("self.json", own())).toEqual({ ...sees, ...machine });
  expect(await run("self-bare.json", own({ isolation: { want: [] } }))).toEqual({ ...sees, ...machine });
  if (skipUnless(hasNamespaces(), "namespaces", "/proc of children")) return;
  const forking = own({ process: { procfs: "self", fork: true } });
  expect(await run("self-fork.json", forking)).toEqual({ ...sees, ...machine, child: "True" });
});

const COMPUTES = `
const f = (n) => { let s = 0; for (let i = 0; i < n; i++) s = (s * 31 + i) | 0; return s; };
const compiled = typeof Bun === "undefined" ? () => 1 : () => require("bun:jsc").numberOfDFGCompiles(f);
for (let i = 0; i < 3000; i++) f(1000);
console.log(compiled() > 0 && compiled() < 1000 ? "compiled" : "interpreted"); // a huge number where it never does
`;

test("Bun and Node start under strict with procfs self, and make machine code within the limit of memory", async () => {
  const script = home.script("computes.js", COMPUTES);
  const strict = policy("runtime.json", own());
  const run = async (...args: string[]): Promise<string> => {
    const { stdout, stderr } = await home.cli("run", ...args);
    return stdout === "" ? stderr : stdout.trim();
  };
  const confined = ["--policy", strict, "--allow-read", home.dir, "--command"];
  expect(await run(...confined, `${process.execPath} ${script}`)).toBe("compiled");
  expect(await run("--max-memory", "512M", "--command", `${process.execPath} ${script}`)).toBe("compiled");
  const node = Bun.which("node");
  if (skipUnless(node !== null, "Node", "Node under strict")) return;
  expect(await run(...confined, `${node} ${script}`)).toBe("compiled");
});

test("what Bun needs to begin is said where the policy hides it, and works as it is printed", async () => {
  mkdirSync(join(home.dir, "bun"));
  const script = home.script("bun/begins.ts", "console.log('begins')");
  const run = (flags: string) =>
    Bun.spawnSync(["sh", "-c", `exec ${join(ROOT, "bin/ipcctl")} run ${flags} ${script}`], { env: home.env });
  const { exitCode, stderr } = run("");
  expect([exitCode, stderr.toString()]).toEqual([5, expect.stringContaining("Bun starts only if")]);
  expect(run(stderr.toString().trim().split("\n").at(-1)!).stdout.toString()).toBe("begins\n");
});

test("what is only reserved has a limit of its own, where a policy says one", async () => {
  const code = `import mmap
kept = []
try:
    for _ in range(8): kept.append(mmap.mmap(-1, 6 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=0))
except OSError as error: print(len(kept), type(error).__name__)
else: print(len(kept))`;
  const run = async (...args: string[]): Promise<string> => (await home.cli("run", ...args, "-c", code)).stdout;
  expect(await run("--policy", "strict")).toBe("0 OSError\n");
  const large = policy("reserving.json", { extends: "strict", limits: { addressSpace: "64G" } });
  expect(await run("--policy", large)).toBe("8\n");
  const { stdout } = await home.cli("policy", "explain", large);
  expect(stdout).toContain("up to 64.0G of address space");
});

// ---- what tools run by themselves ----

const TOOLS = `
import os, sys
folder = sys.argv[1]
def attempt(what, act):
    try: act()
    except OSError as error: print(what, error.strerror)
    else: print(what, "done")
def write(name): open(os.path.join(folder, name), "a").write("x")
attempt("hook", lambda: write(".git/hooks/post-commit"))
attempt("shell", lambda: write(".envrc"))
attempt("replace", lambda: os.remove(os.path.join(folder, ".envrc")))
attempt("move", lambda: os.rename(os.path.join(folder, ".git"), os.path.join(folder, "moved")))
attempt("inner", lambda: write("sub/.vscode/tasks.json"))
attempt("read", lambda: open(os.path.join(folder, ".git/hooks/post-commit")).read())
attempt("linked", lambda: write("sub/dots/bashrc"))
attempt("plain", lambda: write("sub/plain"))
attempt("new", lambda: os.makedirs(os.path.join(folder, ".idea")))
attempt("odd", lambda: os.makedirs(os.path.join(folder, "\\x1b]0;title\\x07\\n", ".idea"), exist_ok=True))
`;

test("what tools run by themselves stays as it is in a folder that may be written, unless it is granted by name", async () => {
  if (skipUnless(hasNamespaces(), "namespaces", "hooks below a write grant")) return;
  const folder = join(home.dir, "repository");
  for (const name of [".git/hooks", "sub/.vscode", "sub/dots"]) mkdirSync(join(folder, name), { recursive: true });
  writeFileSync(join(folder, "sub/dots/bashrc"), "mine");
  symlinkSync("sub/dots/bashrc", join(folder, ".bashrc"));
  for (const name of [".git/hooks/post-commit", ".envrc"]) writeFileSync(join(folder, name), "mine");
  const script = home.script("tools.py", TOOLS);
  const run = (...more: string[]): ReturnType<Home["cli"]> =>
    ran("--policy", "analysis", "--allow-write", folder, ...more, script, "--", folder);
  const { stdout, stderr } = await run();
  expect(stdout.trim().split("\n")).toEqual([
    "hook Read-only file system",
    "shell Read-only file system",
    "replace Device or resource busy",
    "move Device or resource busy",
    "inner Read-only file system",
    "read done",
    "linked Read-only file system",
    "plain done",
    "new done",
    "odd done",
  ]);
  expect(stderr).toContain(`your tools may run by themselves; check them first: ${join(folder, ".idea")} `);
  expect(stderr).toEndWith(String.raw` $'${folder}/\033]0;title\007\012/.idea'${"\n"}`); // no command to the terminal
  expect(readFileSync(join(folder, ".envrc"), "utf8")).toBe("mine");

  const made = async (worker: string): Promise<string> =>
    (await home.cli("audit", worker, "--json")).stdout
      .split("\n")
      .filter((line) => line.includes('"event":"made"'))
      .join("\n");
  expect(await made("run")).toContain(join(folder, ".idea"));
  const maker = home.script("maker.py", `open(${JSON.stringify(join(folder, ".exrc"))}, "w")`);
  await home.cli(
    "start",
    maker,
    "--restart",
    "no",
    "--policy",
    "analysis",
    "--interpreter",
    SYSTEM_PYTHON,
    "--allow-write",
    folder,
  );
  await waitUntil(
    async () => (await made("maker")).includes(join(folder, ".exrc")),
    "what the worker has made is told",
  );

  const asked = await run("--allow-write", join(folder, ".git/hooks"), "--allow-write", join(folder, ".envrc"));
  expect(asked.stdout).toContain("hook done\nshell done\nreplace done\nmove Device or resource busy");
  expect(readFileSync(join(folder, ".git/hooks/post-commit"), "utf8")).toBe("minex");
  expect(asked.stderr).toBe(""); // what it asked for, and what was there before, is no news

  const named = policy("named.json", { files: { read: ["${project}"], scratch: {}, write: [folder] } });
  const explained = (await home.cli("policy", "explain", named)).stdout;
  expect(explained).not.toContain("\u001b");
  expect(explained).toContain(`files.write new .git and its like in ${folder}`);
  expect(explained).toMatch(/^- files.write .*\.git.* denied: read-only mounts: .*--allow-write \S+ grants it$/m);
});

// ---- datagrams beside hosts ----

const DATAGRAMS = `
import socket, sys
def attempt(what, act):
    try: print(what, act())
    except OSError as error: print(what, type(error).__name__)
def own():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("8.8.8.8", 80))
        return one.getsockname()[0]
def out(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(60)
        one.bind(("", 0))
        one.sendto(b"out", ("127.0.0.1", port))
        one.connect(("127.0.0.1", port))
        one.send(b"out")
        return one.recv(10)
attempt("own", own)
for port in map(int, sys.argv[1:]): attempt("out", lambda: out(port))
`;

test("where hosts are granted a worker learns its own address, and its datagrams go nowhere", async () => {
  if (skipUnless(hasNamespaces(), "namespaces", "datagrams beside hosts")) return;
  let received = 0;
  const outside = await Bun.udpSocket({ hostname: "127.0.0.1", socket: { data: () => void received++ } });
  const script = home.script("datagrams.py", DATAGRAMS);
  const free = Bun.spawnSync([SYSTEM_PYTHON, script]).stdout.toString();
  const own = /^own \d/.test(free) ? free : "own 127.0.0.1\n"; // where there is no way out
  for (const name of ["strict", "no-network"]) {
    const policies = ["--policy", name, "--allow-net=host.example:80"];
    const { stdout } = await home.cli("run", ...policies, script, "--", String(outside.port));
    expect({ name, stdout }).toEqual({ name, stdout: `${own}out ConnectionRefusedError\n` });
  }
  expect(received).toBe(0);
  outside.close();
  const { stdout } = await home.cli("audit", "--denied", "-n", "50");
  expect(stdout).toContain(`UDP to 127.0.0.1:${outside.port}`);
  expect((await ran("--policy", "strict", script)).stdout).toBe("own PermissionError\n");
});

// ---- time that is spent on a worker's behalf ----

test("who answers for a worker has the worker's limit of processor time as its own", async () => {
  const limited = policy("second.json", { extends: "net-allowlist", limits: { cpuSeconds: 600 } });
  home.script("asks.py", "import time\ntime.sleep(600)\n");
  expect((await home.cli("start", "asks.py", "--interpreter", SYSTEM_PYTHON, "--policy", limited)).status).toBe(0);
  const { pid, shim_pid } = await home.status("asks");
  const read = (name: string): string => readFileSync(`/proc/${name}`, "utf8");
  const limitOf = (process: number | string): string | undefined =>
    /^Max cpu time +(.*?) +seconds/m.exec(read(`${process}/limits`))?.[1];
  const others = (): string[] =>
    read(`${shim_pid}/task/${shim_pid}/children`)
      .trim()
      .split(" ")
      .filter((child) => Number(child) !== pid);
  // It limits itself, beside the start. The other one is the first process of the worker's namespace.
  const isLimited = (): boolean =>
    others().some((child) => read(`${child}/comm`) === "ipcctl-shim\n" && limitOf(child) === limitOf(pid!));
  await waitUntil(isLimited, "who answers has the worker's limit");
  expect(limitOf(pid!)).toMatch(/^600 +601$/);
  await home.cli("delete", "asks", "-f");
});
