/**
 * Policies from the command line: exceptions by flag, hosts by name, what is told of denials, and the audit log of all
 * of it.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { appendFileSync, chmodSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ipcctl } from "ipcctl";
import { Home, isAlive, ROOT, waitUntil } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { pythonWithPackages } from "../packages.ts";

let home: Home;
type Web = { readonly port: number; readonly stop: () => unknown };
let web: Web;
let other: Web;
beforeAll(() => {
  home = new Home();
  chmodSync(home.dir, 0o755);
  web = serve("hello");
  other = serve("never");
});
afterAll(async () => {
  web.stop();
  other.stop();
  await home[Symbol.asyncDispose]();
});

function serve(text: string): Web {
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response(text) });
  return { port: server.port!, stop: () => server.stop(true) };
}

const CLIENT = `
import sys, urllib.request
for url in sys.argv[1:]:
    try: print(urllib.request.urlopen(url, timeout=60).read().decode())
    except OSError as error: print(type(error).__name__)
`;
const url = (server: { port: number }, host = "127.0.0.1"): string => `http://${host}:${server.port}/`;
const auditLog = (): string => join(home.env.IPCCTL_HOME!, "state/audit/run.jsonl");

test("hosts that are granted are reached, by address and by name, and no others", async () => {
  const script = home.script("client.py", CLIENT);
  const all = [url(web), url(other), url(web, "localhost"), "http://not-granted.example/"];
  for (const policy of ["strict", "no-network"]) {
    const { stdout } = await home.cli(
      "run",
      "--policy",
      policy,
      `--allow-net=localhost:${web.port}`,
      script,
      "--",
      ...all,
    );
    expect({ policy, lines: stdout.trim().split("\n") }).toEqual({
      policy,
      lines: ["hello", "URLError", "hello", "URLError"],
    });
  }
  const { stdout } = await home.cli("run", script, "--", url(web));
  expect(stdout).toBe("URLError\n");
  expect((await home.cli("run", "--allow-net", script, "--", url(web))).stdout).toBe("hello\n");
});

test("packages that make connections of their own get through as well", async () => {
  const python = await pythonWithPackages();
  if (skipUnless(python !== undefined, "requests from PyPI", "packages that make connections")) return;
  const code = `import asyncio, requests
print(requests.get(${JSON.stringify(url(web))}, timeout=60).text)
async def main():
    reader, writer = await asyncio.open_connection("127.0.0.1", ${web.port})
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print((await reader.read()).split(b"\\r\\n\\r\\n")[1].decode())
asyncio.run(main())`;
  const { stdout, stderr } = await home.cli(
    "run",
    "--interpreter",
    python!,
    `--allow-net=127.0.0.1:${web.port}`,
    "-c",
    code,
  );
  expect({ stdout, stderr }).toEqual({ stdout: "hello\nhello\n", stderr: "" });
});

test("listening: only where it is granted, and on the ports that are", async () => {
  const code = (port: number): string =>
    `import socket; s = socket.create_server(("127.0.0.1", ${port})); print("listens")`;
  const free = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const { port } = free;
  free.stop();
  expect((await home.cli("run", "-c", code(port))).stderr).toContain("--allow-");
  expect((await home.cli("run", `--allow-listen=${port}`, "-c", code(port))).stdout).toBe("listens\n");
  expect((await home.cli("run", `--allow-listen=${port}`, "-c", code(0))).status).toBe(1);
  expect((await home.cli("run", "--allow-listen", "-c", code(0))).stdout).toBe("listens\n");
  const connect = `import socket; socket.create_connection(("127.0.0.1", ${web.port}))`;
  expect((await home.cli("run", "--allow-listen", "-c", connect)).status).toBe(1); // the other way it stays shut
});

/** Listens without being bound, bound to the port that it is told, and by a path; and says who listens there. */
const LISTENS = `
import errno, os, socket, struct, sys, tempfile
def tried(attempt):
    try: return attempt()
    except OSError as error: return errno.errorcode[error.errno]
def unbound():
    socket.socket().listen()
    return "listens"
def bound():
    with socket.socket() as s, socket.socket() as client:
        s.bind(("127.0.0.1", int(sys.argv[1])))
        s.listen(5)
        s.listen(6)
        return s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
def by_path():
    s, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    s.bind(tempfile.mkdtemp() + "/socket")
    s.listen()
    client.connect(s.getsockname())
    return struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:] == (os.getuid(), os.getgid())
def wrong(fd):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    return errno.errorcode[ctypes.get_errno()] if libc.listen(fd, 1) < 0 else "listens"
print(tried(unbound), tried(bound), tried(by_path), wrong(250), wrong(0))
`;

test("what listens without a port that is granted gets none from the kernel", async () => {
  const script = home.script("listens.py", LISTENS);
  const free = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const { port } = free;
  free.stop();
  const silent = home.script("silent.json", '{"version":1,"extends":"strict","audit":{"denied":false}}');
  const unix = home.script("unix.json", '{"version":1,"extends":"strict","network":{"unix":"any"}}');
  for (const [flags, byPath] of [
    [["--policy", "strict"], "EPERM"],
    [["--policy", silent], "EPERM"],
    [["--policy", unix], "True"],
    [["--policy", "no-network"], "True"],
    [["--allow-net=a.test:1"], "EPERM"],
  ] as const) {
    const { stdout, stderr } = await home.cli("run", ...flags, `--allow-listen=${port}`, script, "--", `${port}`);
    expect({ flags, stdout, stderr }).toEqual({ flags, stdout: `EPERM 1 ${byPath} EBADF ENOTSOCK\n`, stderr: "" });
  }
}, 120_000);

test("files: what is granted may be read or written, and what lies beside it not", async () => {
  const data = join(home.dir, "data.txt");
  writeFileSync(data, "of the user");
  const code = `import sys
for path in sys.argv[1:]:
    try: print(open(path).read())
    except OSError as error: print(type(error).__name__)`;
  const run = async (...flags: string[]): Promise<string> =>
    (await home.cli("run", ...flags, "-c", code, "--", data, "/etc/hostname")).stdout;
  expect(await run()).not.toContain("of the user");
  expect(await run("--allow-read", data)).toMatch(/^of the user\n\w+Error\n$/);
  const written = join(home.dir, "written");
  const write = `open(${JSON.stringify(written)}, "w").write("x")`;
  await home.cli("run", "-c", write);
  expect(existsSync(written)).toBe(false); // at most there is one in the worker's own /tmp
  chmodSync(home.dir, 0o777); // for users of their own
  // Our state lies there.
  expect(await home.cli("run", "--allow-write", home.dir, "-c", write)).toMatchObject({ status: 5 });
  chmodSync(home.dir, 0o755);
});

test("a worker that ran into a denial is known by it, with the flag that helps", async () => {
  const script = home.script(
    "denied.py",
    `import ipcctl, urllib.request
@ipcctl.expose
def fetch(url):
    try: return urllib.request.urlopen(url, timeout=60).read().decode()
    except OSError as error: return type(error).__name__
ipcctl.serve()
`,
  );
  using ipc = new Ipcctl(await home.connect());
  expect((await home.cli("start", script, "--name", "plain")).status).toBe(0);
  const plain = await ipc.worker("plain");
  expect((await home.status("plain")).denied).toEqual([]);
  expect(await plain.call("fetch", url(web))).toBe("URLError");
  await waitUntil(async () => (await home.status("plain")).denied.length > 0, "it is told");
  expect((await home.status("plain")).denied[0]).toMatch(/^call socket AF_INET.* \(--allow-net/);
  expect((await home.status("plain")).policy).toBe("no-network");

  expect((await home.cli("start", script, "--name", "some", `--allow-net=127.0.0.1:${web.port}`)).status).toBe(0);
  const some = await ipc.worker("some");
  expect(await some.call("fetch", url(web))).toBe("hello");
  expect(await some.call("fetch", url(other))).toBe("URLError");
  await waitUntil(async () => (await home.status("some")).denied.length > 0, "it is told");
  expect((await home.status("some")).denied).toEqual([
    `network 127.0.0.1:${other.port} (--allow-net=127.0.0.1:${other.port})`,
  ]);
  expect((await home.status("some")).policy).toBe("no-network with exceptions");

  await home.killDaemon();
  expect(await some.call("fetch", url(web))).toBe("hello"); // who connects for it needs no daemon
  const { pid, shim_pid: shim } = await home.status("some");
  const answering = readFileSync(`/proc/${shim}/task/${shim}/children`, "latin1")
    .trim()
    .split(" ")
    .map(Number)
    .find((one) => one !== pid)!;
  process.kill(answering, "SIGKILL");
  await waitUntil(() => !isAlive(pid!), "who has nobody to connect for it is ended");
});

test("the default can be chosen: by the environment, and by the project file", async () => {
  home.script("quiet.py", "import time\nwhile True: time.sleep(0.01)\n");
  home.env.POLICY_FILE = "read-only";
  expect((await home.cli("start", "quiet.py", "--name", "by-env")).status).toBe(0);
  expect((await home.status("by-env")).policy).toBe("read-only");
  delete home.env.POLICY_FILE;
  writeFileSync(join(home.dir, "own.json"), '{"version":1,"extends":"strict","description":"ours"}');
  writeFileSync(
    join(home.dir, "ipcctl.json"),
    JSON.stringify({
      default_policy: "./own.json",
      apps: [
        { name: "by-file", script: "quiet.py" },
        { name: "a-command", command: "sleep 100" },
      ],
    }),
  );
  expect((await home.cli("start")).status).toBe(0);
  expect((await home.status("by-file")).policy).toBe(join(home.dir, "own.json"));
  expect((await home.status("a-command")).policy).toBe("trusted");
});

test("what a machine lacks is degraded only where the policy allows it, and then it is told everywhere", async () => {
  const inside = join(home.dir, "readable");
  const policy = home.script(
    "degraded.json",
    JSON.stringify({
      version: 1,
      extends: "strict",
      process: { uid: "keep" },
      files: { read: ["/usr"], deny: ["/usr/share"] },
      isolation: { want: [], onMissing: "degrade" },
    }),
  );
  const strict = home.script("not-degraded.json", readFileSync(policy, "utf8").replace(',"onMissing":"degrade"', ""));
  expect((await home.cli("run", "--policy", strict, "-c", "1")).stderr).toContain(
    "files.deny /usr/share cannot be enforced",
  );
  expect((await home.cli("run", "--policy", policy, "-c", "1")).stderr).toContain(
    "not enforced here: files.deny /usr/share",
  );
  const lines = (await home.cli("audit", "--json", "-n", "1")).stdout;
  expect((JSON.parse(lines) as { degraded: string[] }).degraded.join()).toContain("files.deny /usr/share");
  expect(existsSync(inside)).toBe(false);
});

test("audit shows what was decided, follows, and bears what is no line of its", async () => {
  const denied = await home.cli("audit", "--denied", "--json");
  const events = denied.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(events.every(({ verdict }) => verdict === "denied")).toBe(true);
  expect(events).toContainEqual(
    expect.objectContaining({
      worker: "some",
      event: "connect",
      address: "127.0.0.1",
      port: other.port,
      verdict: "denied",
    }),
  );
  expect(events).toContainEqual(expect.objectContaining({ event: "dns", host: "not-granted.example" }));
  const granted = (await home.cli("audit", "some")).stdout;
  expect(granted).toContain("start  policy=no-network with exceptions");
  expect(granted).toContain(`connect  granted  address=127.0.0.1  port=${web.port}`);
  appendFileSync(auditLog(), 'half a line {"\n\u001b[31m\n');
  let shown = "";
  await waitUntil(async () => {
    shown = (await home.cli("audit", "-n", "3")).stdout;
    return shown.includes("half a line");
  }, "what is not a record is chained");
  expect(shown).not.toContain("\u001b");
  expect((await home.cli("audit", "nobody-of-this-name")).stderr).toContain(
    "the audit has no record of nobody-of-this-name",
  );

  const follower = Bun.spawn([join(ROOT, "bin/ipcctl"), "audit", "-f", "-n", "0", "--json"], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const reader = follower.stdout.getReader();
  let text = "";
  const seen = (async () => {
    while (!text.includes("later")) {
      const { value, done } = await reader.read();
      if (done) return;
      text += Buffer.from(value).toString();
    }
  })();
  await waitUntil(async () => {
    await home.cli("run", "--name", "later", "-c", "1");
    return text.includes("later");
  }, "it is shown as it happens");
  await seen;
  follower.kill("SIGINT");
  await follower.exited;
});

test("a worker of the daemon has a spool of its own, which it can neither read nor write; a gap in one is named", async () => {
  const folder = join(home.env.IPCCTL_HOME!, "state/audit");
  const script = home.script(
    "pries.py",
    `import os, socket
print(socket.socket().connect_ex(("192.0.2.1", 80)), flush=True)
for path in (${JSON.stringify(folder)}, ${JSON.stringify(join(folder, "worker-pries.jsonl"))}):
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT):
        try: print("opened", os.open(path, flags), flush=True)
        except OSError: print("denied", flush=True)
`,
  );
  const policy = home.script(
    "pries.json",
    '{"version":1,"extends":"strict","network":{"mode":"allow","allow":["127.0.0.1:9"]}}',
  );
  await home.start("pries", script, { policy, restart_policy: "no" });
  await waitUntil(async () => (await home.lines("pries")).length === 5, "it has tried");
  expect((await home.lines("pries")).slice(1)).toEqual(["denied", "denied", "denied", "denied"]);
  const spool = join(folder, "daemon.jsonl");
  const newestOf = (path: string): { writer: string; seq: number } =>
    JSON.parse(readFileSync(path, "utf8").trim().split("\n").at(-1)!) as { writer: string; seq: number };
  expect(newestOf(join(folder, "worker-pries.jsonl"))).toMatchObject({ seq: 1, event: "connect", verdict: "denied" });
  const newest = newestOf(spool);
  const { writer, seq } = newest;
  expect(newest).toMatchObject({ event: "start", worker: "pries" });
  expect(writer).toMatch(/^daemon-\d+-\d+$/);
  appendFileSync(spool, `${JSON.stringify({ ...newest, seq: seq + 4 })}\n`);
  expect((await home.cli("audit")).stdout).toContain(
    `gap in daemon.jsonl: records ${seq + 1} to ${seq + 3} are missing of those that ${writer} wrote`,
  );
  const asJson = (await home.cli("audit", "--json")).stdout.split("\n").filter((line) => line.includes('"gap"'));
  expect(JSON.parse(asJson[0]!)).toMatchObject({ event: "gap", spool: "daemon.jsonl", after: seq, missing: 3 });
  await home.cli("delete", "pries");
});

test("the audit log is rotated, and four older files are kept", async () => {
  for (let round = 0; round < 6; round++) {
    truncateSync(auditLog(), 16 * 1024 * 1024);
    await home.cli("run", "--name", `round-${round}`, "-c", "1");
    expect(statSync(auditLog()).size).toBeLessThan(10_000);
  }
  expect([1, 2, 3, 4, 5].map((number) => existsSync(`${auditLog()}.${number}`))).toEqual([
    true,
    true,
    true,
    true,
    false,
  ]);
});

test("policy list, show, explain and check say what there is", async () => {
  const list = (await home.cli("policy", "list")).stdout;
  for (const name of ["trusted", "no-network", "read-only", "strict", "analysis", "net-allowlist"]) {
    expect(list).toContain(name);
    const { stdout, status } = await home.cli("policy", "explain", name);
    expect({ name, status }).toEqual({ name, status: 0 });
    expect(
      stdout
        .split("\n")
        .filter(Boolean)
        .every((line) => /^[-+~] .+  (granted|denied|limited): ./.test(line)),
    ).toBe(true);
  }
  expect(JSON.parse((await home.cli("policy", "show", "strict")).stdout)).toMatchObject({ network: { mode: "none" } });
});
