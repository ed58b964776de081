/** Workers that may fork have processes of their own: they see no others, and none of theirs outlives them. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, cpSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { Home, isAlive, ROOT, waitUntil } from "../home.ts";
import { hasTool, SYSTEM_PYTHON, skipUnless } from "../needs.ts";

let home: Home;
let hasNamespaces = false;
let policy: string;
beforeAll(async () => {
  home = new Home();
  chmodSync(home.dir, 0o755);
  policy = home.script(
    "forking.json",
    JSON.stringify({ version: 1, extends: "strict", process: { fork: true }, limits: { cpuSeconds: null } }),
  );
  const { stdout } = await home.cli("policy", "explain", policy);
  hasNamespaces = /namespaces +limited: a root, processes/.test(stdout);
});
afterAll(() => home[Symbol.asyncDispose]());

/** Says who it is, and what it can do to the first process, to one outside, and to a group outside. */
const LOOKS = `
import errno, json, os, signal, sys
def tried(send, number):
    try:
        send(number, signal.SIGKILL)
        return "sent"
    except OSError as error:
        return errno.errorcode[error.errno]
first = tried(os.kill, 1)
child = os.fork()
if child == 0:
    os._exit(7)
ended = os.waitpid(child, 0)[1]
print(json.dumps([os.getpid(), os.getppid(), first in ("sent", "EPERM"), tried(os.kill, int(sys.argv[1])), tried(os.killpg, int(sys.argv[1])), ended >> 8]))
`;

test("it has numbers of its own, and those of others are nobody's", async () => {
  if (skipUnless(hasNamespaces, "namespaces", "numbers of processes of its own")) return;
  const script = home.script("looks.py", LOOKS);
  const outside = Bun.spawn(["cat"], { stdin: "pipe", stdout: "ignore" });
  const { stdout, stderr } = await home.cli("run", "--policy", policy, script, "--", `${outside.pid}`);
  expect(stderr).toBe("");
  expect(JSON.parse(stdout)).toEqual([2, 0, true, "ESRCH", "ESRCH", 7]);
  expect(isAlive(outside.pid)).toBe(true);
  outside.kill();
});

/** All that it can ask of a process: what is different for one that is there and for one that is not. */
const ASKS = `
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
room = ctypes.create_string_buffer(4096)
where = ctypes.addressof(room)
def call(number, *args):
    ctypes.set_errno(0)
    return libc.syscall(ctypes.c_long(number), *[ctypes.c_long(one) for one in args]) >= 0, ctypes.get_errno()
def clock(pid, kind=2): return ~pid << 3 | kind
questions = {
    "getsid": lambda pid: call(124, pid), "getpgid": lambda pid: call(121, pid), "scheduler": lambda pid: call(145, pid),
    "parameters": lambda pid: call(143, pid, where), "turn": lambda pid: call(148, pid, where), "cores": lambda pid: call(204, pid, 4096, where),
    "attributes": lambda pid: call(315, pid, where, 56, 0), "priority": lambda pid: call(140, 0, pid), "priority of a group": lambda pid: call(140, 1, pid),
    "of the disk": lambda pid: call(252, 1, pid), "limits": lambda pid: call(302, pid, 7, 0, where), "same files": lambda pid: call(312, os.getpid(), pid, 0, 0, 0),
    "time used": lambda pid: call(228, clock(pid), where), "of a thread": lambda pid: call(228, clock(pid, 6), where), "resolution": lambda pid: call(229, clock(pid), where),
    "sleep by it": lambda pid: call(230, clock(pid), 1, where + 64, 0), "timer by it": lambda pid: call(222, clock(pid), 0, where), "futexes": lambda pid: call(274, pid, where, where),
    "descriptor": lambda pid: call(434, pid, 0), "memory": lambda pid: call(310, pid, where, 1, where, 1, 0), "pages": lambda pid: call(279, pid, 0, 0, 0, where, 0),
    "counters": lambda pid: call(298, where, pid, -1, -1, 0), "capabilities": lambda pid: call(125, where + 512, where), "signal": lambda pid: call(62, pid, 0),
    "signal to a thread": lambda pid: call(234, pid, pid, 0), "group": lambda pid: call(62, -pid, 0), "advice": lambda pid: call(440, pid, where, 0, 0, 0), "ptrace": lambda pid: call(101, 0x4206, pid, 0, 0),
}
there, nobody = int(sys.argv[1]), 4194303
ctypes.memmove(where + 512, (0x20080522).to_bytes(4, "little") + there.to_bytes(4, "little"), 8)
print(json.dumps([name for name, ask in questions.items() if ask(there) != ask(nobody)]))
own = [os.getsid(0), os.getpgid(0), os.sched_getscheduler(0), os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(os.getpid())]
print(len(own), call(228, clock(0), where), call(228, 2, where), call(228, 3, where))
`;

test("under strict nothing can be asked of another process", async () => {
  if (skipUnless(process.arch === "x64", "x86-64", "questions by numbers of system calls")) return;
  if (skipUnless(await hasTool(SYSTEM_PYTHON, "python3-minimal"), SYSTEM_PYTHON, "what a user of its own asks")) return;
  const script = home.script("asks.py", ASKS);
  const bare = home.script("bare.json", '{"version":1,"extends":"strict","isolation":{"want":[]}}');
  const outside = Bun.spawn(["cat"], { stdin: "pipe", stdout: "ignore" });
  expect((await home.cli("snapshot", "create", "asks", "--import", "json")).stderr).toBe("");
  for (const flags of [
    ["--policy", "strict"],
    ["--policy", bare, "--interpreter", SYSTEM_PYTHON], // which a user of its own can reach
    ["--policy", "strict", "--snapshot", "asks"],
  ]) {
    const { stdout } = await home.cli("run", ...flags, script, "--", `${outside.pid}`);
    expect({ flags, stdout }).toEqual({ flags, stdout: "[]\n6 (True, 0) (True, 0) (True, 0)\n" });
  }
  outside.kill();
}, 120_000);

const MULTIPROCESSING = `
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
def square(n): return n * n
def tell(queue, lock):
    with lock: queue.put("told")
if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool: print(pool.map(square, range(4)))
    queue, lock = multiprocessing.Queue(), multiprocessing.Lock()
    child = multiprocessing.Process(target=tell, args=(queue, lock))
    child.start(); print(queue.get()); child.join()
    with ProcessPoolExecutor(2) as pool: print(list(pool.map(square, [5, 6])))
    value = multiprocessing.Value("i", 7); print(value.value)
    print(os.listdir("/dev/shm"))
    written = 0
    with open("/dev/shm/" + sys.argv[1], "wb", buffering=0) as file:
        try:
            while written < 1 << 28: written += file.write(bytes(1 << 20))
        except OSError: pass
    print(56 < written >> 20 <= 64)
`;

test("pools, queues and locks have memory of their own, so much and no more", async () => {
  if (skipUnless(hasNamespaces, "namespaces", "a /dev/shm of one's own")) return;
  const large = home.script(
    "large.json",
    JSON.stringify({ version: 1, extends: policy, limits: { fileSize: null }, files: { scratch: {} } }),
  );
  const script = home.script("pools.py", MULTIPROCESSING);
  const name = basename(home.dir); // others have theirs in the machine's own folder, and come and go
  const { stdout, stderr } = await home.cli("run", "--policy", large, script, "--", name);
  expect({ stdout, stderr }).toEqual({
    stdout: "[0, 1, 4, 9]\ntold\n[25, 36]\n7\n[]\nTrue\n",
    stderr: "",
  });
  expect(readdirSync("/dev/shm")).not.toContain(name);
});

/** Orphans that ignore what asks them to end. */
const ORPHANS = `
import os, signal, sys, time
born, tell = os.pipe()
for number in range(3):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.write(tell, b"!")
            time.sleep(1000)
        os._exit(0)
    os.wait()
for number in range(3):
    os.read(born, 1)
print("all", flush=True)
if len(sys.argv) == 1:
    time.sleep(1000)
`;

function processesOf(script: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return isAlive(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(script);
      } catch {
        return false;
      }
    });
}

test("what it leaves behind ends with it, by run, by stop, by its own end", async () => {
  const script = home.script("orphans.py", ORPHANS);
  const { stdout, status } = await home.cli("run", "--policy", policy, script, "--", "end");
  expect({ stdout, status }).toEqual({ stdout: "all\n", status: 0 });
  expect(processesOf(script)).toEqual([]);
  const more = { policy, stop_timeout: 5, restart_policy: "no" };
  await home.start("stays", script, more);
  await waitUntil(async () => (await home.lines("stays")).length === 1, "its children are there");
  expect(processesOf(script)).toHaveLength(4);
  expect((await home.cli("stop", "stays")).status).toBe(0);
  expect(processesOf(script)).toEqual([]);
  await home.start("goes", script, { ...more, args: ["end"] });
  await waitUntil(async () => (await home.status("goes")).state !== "Running", "it ended");
  expect(processesOf(script)).toEqual([]);
});

test("the shim is killed: so is all of it", async () => {
  if (skipUnless(hasNamespaces, "namespaces", "processes whose shim is killed")) return;
  const script = home.script("lost.py", ORPHANS);
  await home.start("lost", script, { policy, restart_policy: "no" });
  await waitUntil(async () => (await home.lines("lost")).length === 1, "its children are there");
  process.kill(parentOf((await home.status("lost")).pid!), "SIGKILL");
  await waitUntil(() => processesOf(script).length === 0, "nothing of it is left");
  // and by run, whose caller is not there to look after it
  const child = Bun.spawn([`${import.meta.dir}/../../bin/ipcctl`, "run", "--policy", policy, script], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "ignore"],
  });
  // The newline is a write of its own.
  expect(Buffer.from((await child.stdout.getReader().read()).value!).toString()).toMatch(/^all\n?$/);
  const shim = processesOf(script).map(parentOf).find(isShim)!;
  process.kill(shim, "SIGKILL");
  await waitUntil(() => processesOf(script).length === 0, "nothing of that is left either");
  await child.exited;
});

function parentOf(pid: number): number {
  try {
    return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
  } catch {
    return 0;
  }
}

function isShim(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("ipcctl-shim\0--run");
  } catch {
    return false;
  }
}

/**
 * Who tells the shim the numbers waits until the worker has said something, or as long as it takes to see that it does
 * not.
 */
const LATE_TELLER = `
#include "ipc.h"
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <unistd.h>
int __real_ipc_report_tell(int fd, enum ipc_report_kind kind, int32_t first, int32_t second);
int __wrap_ipc_report_tell(int fd, enum ipc_report_kind kind, int32_t first, int32_t second)
{
	int waiting = 0;
	for (int tries = 0; kind == IPC_REPORT_PIDS && waiting == 0 && tries < 300; tries++, usleep(1000))
		ioctl(fd, SIOCOUTQ, &waiting);
	return __real_ipc_report_tell(fd, kind, first, second);
}
`;

/** An installation whose shim has this in the place of a function. */
function withShim(name: string, wrapped: string, text: string): Home {
  const app = join(home.dir, name);
  for (const part of ["bin", "build/js", "native/build", "policies", "python", "package.json"])
    cpSync(join(ROOT, part), join(app, part), { recursive: true, preserveTimestamps: true });
  symlinkSync(join(ROOT, "node_modules"), join(app, "node_modules"));
  const shim = join(app, "native/build/ipcctl-shim");
  rmSync(shim);
  const built = Bun.spawnSync(
    [
      ...["gcc", "-std=c11", "-D_GNU_SOURCE", `-Wl,--wrap=${wrapped}`, `-I${join(ROOT, "native/shim")}`, "-o", shim],
      home.script(`${name}.c`, text),
      ...[...new Bun.Glob("native/{shim,net,lines,host}/*.c").scanSync(ROOT)].map((file) => join(ROOT, file)),
      join(ROOT, "native/ring/ring.c"),
    ],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  expect(built.exitCode).toBe(0);
  const other = new Home();
  other.installation = app;
  chmodSync(other.dir, 0o755);
  return other;
}

test("what a worker reports is not taken for its number, however late that comes", async () => {
  if (skipUnless(hasNamespaces, "namespaces", "the order of reports")) return;
  if (skipUnless(await hasTool("/usr/bin/gcc", "gcc"), "/usr/bin/gcc", "the order of reports")) return;
  await using late = withShim("late", "ipc_report_tell", LATE_TELLER);
  const run = (...args: string[]) => late.cli("run", "--policy", policy, ...args);
  expect(await run("-c", "print('ran'); raise SystemExit(7)")).toEqual({ status: 7, stdout: "ran\n", stderr: "" });
  expect(await run("-c", "import os; os.kill(os.getpid(), 9)")).toEqual({ status: 137, stdout: "", stderr: "" });
  const gone = await run("--command", "/nobody/knows/this");
  expect(gone.status).toBe(127);
  expect(gone.stderr).toContain("No such file or directory (exec)");
});

test("the shim is killed before anybody has reached it: nothing of the worker is left", async () => {
  if (skipUnless(await hasTool("/usr/bin/gcc", "gcc"), "/usr/bin/gcc", "a shim that is killed at its start")) return;
  await using deaf = withShim(
    "deaf",
    "listen",
    "int __wrap_listen(int fd, int backlog) { return 0 * (fd + backlog); }",
  );
  const text = `import os, signal, time
if os.fork() == 0:
    os.setsid()
    with open("grandchild~", "w") as file: file.write(str(os.getpid()))
    os.rename("grandchild~", "grandchild")
    time.sleep(600)
while not os.path.exists("grandchild"): time.sleep(0.01)
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(600)
`;
  const { status, stderr } = await deaf.cli(
    ...["start", deaf.script("tree.py", text), "--policy", "trusted", "--restart", "no", "-d", deaf.dir],
  );
  expect([status, stderr]).toEqual([1, expect.stringContaining("the shim ended with status 137")]);
  const grandchild = Number(readFileSync(join(deaf.dir, "grandchild"), "utf8"));
  expect(isAlive(grandchild)).toBe(false);
});
