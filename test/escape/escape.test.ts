/**
 * Each attempt must succeed without confinement, or it proves nothing; under a policy all that the policy denies must fail. As the user who
 * runs the tests and, for root, as another one without privileges.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ipcctl } from "ipcctl";
import { Home, waitUntil } from "../home.ts";

const NETWORK = [
  ...["tcp", "tcp6_mapped", "fastopen", "udp", "mptcp", "listen", "packet", "icmp", "vsock", "netlink"],
  ...["raw_call", "x32_call", "int80_call", "io_uring", "child_process", "http", "abstract_socket"],
];
const OTHERS = ["ptrace", "read_memory", "proc_memory", "steal_socket", "setuid_program", "type_into_terminal"];
const WRITING = [
  ...["write", "append", "truncate", "truncate_reading", "mkdir", "rename", "unlink", "link", "symlink", "fifo"],
  ...["unix_listener", "temporary", "through_proc", "by_a_symlink", "shell", "copy"],
];
const METADATA = ["chmod", "utime", "attribute", "flags"];
const PEER = ["signal_peer", "signal_by_kernel", "limit_peer"];
/** What this machine or this user may lack: without it the attempt fails in the control run, and is left out, by name. */
const MAY_LACK = new Set([
  ...["packet", "icmp", "vsock", "mptcp", "fastopen", "x32_call", "int80_call", "io_uring", "tcp6_mapped"],
  ...[
    "attribute",
    "flags",
    "type_into_terminal",
    "ptrace",
    "read_memory",
    "proc_memory",
    "steal_socket",
    "signal_by_kernel",
  ],
]);
const NOBODY = 65_534;
const SYSTEM_PYTHON = "/usr/bin/python3";
const isRoot = process.getuid!() === 0;
const canBeAnother = isRoot && existsSync(SYSTEM_PYTHON);

/** Another user may not reach the Python of the one who runs the tests. */
function pythonOf(uid: number | undefined): string {
  return uid === undefined ? "python3" : SYSTEM_PYTHON;
}

let home: Home;
beforeAll(() => {
  home = new Home();
  chmodSync(home.dir, 0o755);
  for (const name of ["peer.py", "attempts.py", "benign.py"])
    // where another user can read them
    home.script(name, readFileSync(join(import.meta.dir, name), "utf8"));
});
afterAll(() => home[Symbol.asyncDispose]());

type Where = Record<string, unknown>;
type Peer = AsyncDisposable & {
  readonly where: Where;
  readonly state: () => Promise<{ hits: string[]; files: number }>;
};

/** A fresh folder and a fresh process to aim at. */
async function openPeer(uid: number | undefined): Promise<Peer> {
  const folder = join(home.dir, `target-${Math.random()}`);
  mkdirSync(folder);
  for (const name of ["existing", "victim"]) writeFileSync(join(folder, name), "content");
  if (uid !== undefined) for (const path of ["", "existing", "victim"]) chownSync(join(folder, path), uid, uid);
  const command = [pythonOf(uid), join(home.dir, "peer.py"), folder];
  const child = Bun.spawn(
    uid === undefined ? command : ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", ...command],
    {
      stdio: ["pipe", "pipe", "inherit"],
    },
  );
  const reader = child.stdout.getReader();
  let held = "";
  const line = async (): Promise<unknown> => {
    while (!held.includes("\n")) {
      const { value, done } = await reader.read(); // a piece of a line, or more than one: as the kernel had it
      if (done) throw new Error("the peer ended");
      held += Buffer.from(value).toString();
    }
    const text = held.slice(0, held.indexOf("\n"));
    held = held.slice(text.length + 1);
    return JSON.parse(text);
  };
  const where = (await line()) as Where;
  return {
    where,
    state: async () => {
      void child.stdin.write("state\n");
      await child.stdin.flush();
      return (await line()) as { hits: string[]; files: number };
    },
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

async function run(policy: string, uid: number | undefined, script: string, ...args: string[]): Promise<string> {
  const flags = uid === undefined ? [] : ["--uid", `${uid}`, "--gid", `${uid}`, "--interpreter", pythonOf(uid)];
  const path = join(home.dir, script);
  const { stdout, stderr, status } = await home.cli("run", "--policy", policy, ...flags, path, "--", ...args);
  if (status !== 0) throw new Error(`${script} under ${policy}: ${status} ${stderr}`);
  return stdout;
}

async function attempt(policy: string, uid: number | undefined): Promise<{ got: Record<string, boolean>; peer: Peer }> {
  const peer = await openPeer(uid);
  const got = JSON.parse(await run(policy, uid, "attempts.py", JSON.stringify(peer.where))) as Record<string, boolean>;
  return { got, peer };
}

const users: [name: string, uid: number | undefined][] = [
  [isRoot ? "root" : "an ordinary user", undefined],
  ...(canBeAnother ? [["nobody", NOBODY] as [string, number]] : []),
];
if (!canBeAnother) console.log(`skipped: attempts as another user need root and ${SYSTEM_PYTHON}`);

for (const [name, uid] of users)
  test(`as ${name}`, async () => {
    const { got: control, peer } = await attempt("trusted", uid);
    await using _ = peer;
    const lacking = Object.keys(control).filter((one) => !control[one]);
    expect(lacking.filter((one) => !MAY_LACK.has(one))).toEqual([]);
    if (lacking.length > 0) console.log(`left out as ${name}, fails without confinement too: ${lacking.join(", ")}`);
    const escaped = (got: Record<string, boolean>): string[] =>
      Object.keys(got).filter((one) => control[one] && got[one]);

    for (const policy of ["no-network", "read-only"]) expect(await run(policy, uid, "benign.py")).toBe('"benign"\n');

    const offline = await attempt("no-network", uid);
    await using _offline = offline.peer;
    expect(escaped(offline.got).filter((one) => [...NETWORK, ...OTHERS].includes(one))).toEqual([]);
    expect(escaped(offline.got)).toContain("write"); // and nothing else is taken away

    const reader = await attempt("read-only", uid);
    await using _reader = reader.peer;
    const denied = [...NETWORK, ...OTHERS, ...WRITING, ...METADATA, "signal_peer", "limit_peer"];
    expect(escaped(reader.got).filter((one) => denied.includes(one))).toEqual([]);
    const { hits, files } = await reader.peer.state();
    expect({ hits, isLimited: files === 64 }).toEqual({ hits: [], isLimited: false });
    expect(Object.keys(control).toSorted()).toEqual(
      [...NETWORK, ...OTHERS, ...WRITING, ...METADATA, ...PEER].toSorted(),
    );
  }, 60_000);

test("a supervised worker is confined, answers calls, and is not weaker after a restart", async () => {
  const script = home.script(
    "confined.py",
    `
import os, socket
import ipcctl
@ipcctl.expose
def outcome():
    found = []
    for attempt in (lambda: socket.socket(), lambda: open(${JSON.stringify(join(home.dir, "out"))}, "w"), lambda: open(os.path.join(os.environ["TMPDIR"], "in"), "w")):
        try: attempt(); found.append("ok")
        except OSError as error: found.append(error.errno)
    return found
ipcctl.serve()
`,
  );
  using ipc = new Ipcctl(await home.connect());
  const py = await ipc.start(script, { cwd: home.dir, policy: "read-only" });
  expect(await py.call("outcome")).toEqual([1, 13, "ok"]);
  expect((await home.status("confined")).policy).toBe("read-only");
  process.kill((await home.status("confined")).pid!, "SIGKILL");
  await waitUntil(() => !py.isOpen, "it is gone");
  using again = await ipc.worker("confined");
  expect(await again.call("outcome")).toEqual([1, 13, "ok"]);
});

test("a policy that cannot be carried out is an error that names it, and nothing starts", async () => {
  const script = home.script("never.py", "open('started', 'w')");
  const bad = home.script(
    "bad.json",
    '{"version":1,"extends":"trusted","files":{"read":["/"],"write":["/not/there"]}}',
  );
  const cases: [file: string, message: string][] = [
    ['{"version":1,"network":{"mode":"some"}}', "$.network.mode"],
    ['{"version":1,"files":{"read":["relative"]}}', "$.files.read.0: must be an absolute path"],
    ['{"version":1,"files":{"read":["/a/../b"]}}', "must be an absolute path"],
    ['{"version":1,"colour":"red"}', "colour"],
    ['{"version":2}', "$.version"],
    ["{", "JSON"],
    ['{"version":1,"extends":"nobody-knows"}', "no policy"],
    ['{"version":1,"files":{"read":["/not/there"]}}', "files /not/there cannot be enforced"],
    ['{"version":1,"extends":"no-network","files":{"deny":["/etc"]}}', "take out of a grant"],
    [`{"version":1,"extends":${JSON.stringify(join(home.dir, "case.json"))}}`, "extends more than 8"],
  ];
  for (const [text, message] of cases) {
    const file = home.script("case.json", text);
    const { stderr, status } = await home.cli("run", "--policy", file, script);
    expect({ text, stderr, isRefused: status === 2 || status === 5 }).toEqual({
      text,
      stderr: expect.stringContaining(message),
      isRefused: true,
    });
  }
  const missing = await home.cli("start", script, "--policy", bad, "--name", "missing", "--restart", "no");
  expect(missing.status).not.toBe(0);
  expect(missing.stderr).toContain("/not/there");
  expect(await Bun.file(join(home.dir, "started")).exists()).toBe(false);
});
