/** The command `auth` and its verbs, with a daemon: what they do, and that a value goes in and never comes out. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { IpcError } from "../../src/base/errors.ts";
import { environment } from "../needs.ts";
import { Home, outcomeOf, ROOT, waitUntil, within, withDaemon, type CliResult } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
  home.env.IPCCTL_LOG_LEVEL = "debug"; // of the daemon that this file starts
});
afterAll(() => home[Symbol.asyncDispose]());

/** What is stored in this file: each of them is searched for at its end. */
const VALUES: string[] = [];
const secret = (text: string): string => {
  VALUES.push(text);
  return text;
};
const file = (name: string, text: string | Uint8Array): string => {
  const path = join(home.dir, name);
  writeFileSync(path, text);
  return path;
};

/** The command with this on its standard input. */
async function piped(text: string, ...args: string[]): Promise<CliResult> {
  const [stdin, stdout, stderr] = [Buffer.from(text), "pipe", "pipe"] as const;
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), ...args], { cwd: home.dir, env: home.env, stdin, stdout, stderr });
  return await within(60_000, args.join(" "), outcomeOf(child as unknown as Bun.Subprocess<"ignore", "pipe", "pipe">));
}

const errorOf = (work: Promise<unknown>): Promise<IpcError> =>
  work.then(
    () => Promise.reject(new Error("it should have failed")),
    (error: IpcError) => error,
  );

const done = (stdout: string): CliResult => ({ status: 0, stdout: `${stdout}\n`, stderr: "" });
const failed = (status: number, message: string, hint: string): CliResult => ({
  ...{ status, stdout: "" },
  stderr: `ipcctl: ${message}\n  ${hint}\n`,
});

test("a value comes from a pipe, a file or a variable, without the newline at its end", async () => {
  expect(await piped(`${secret("from-a-pipe")}\n`, "auth", "add", "token", "--plugin", "http")).toEqual(
    done("http/token: added"),
  );
  const path = file("key.pem", `${secret("-----BEGIN\nfrom-a-file\n-----END")}\r\n`);
  expect(await home.cli("auth", "add", "webhook", "--from-file", "key.pem")).toEqual(done("webhook: added"));
  home.env.TOKEN = secret("from-a-variable");
  expect(await home.cli("auth", "rotate", "http/token", "--from-env", "TOKEN", "--json")).toEqual(
    done('{"name":"http/token"}'),
  );
  delete home.env.TOKEN;
  // The same value again is told from another: so the newline was not stored.
  file("again", VALUES[1]!);
  expect((await home.cli("auth", "rotate", "webhook", "--from-file", "again")).stderr).toContain(
    "this is the value that webhook has",
  );
  expect(statSync(path).isFile()).toBe(true);
});

test("the list has names, plugins and times", async () => {
  const { stdout } = await home.cli("auth", "list");
  const time = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`;
  expect(stdout).toMatch(
    new RegExp(
      `^name +plugin  kind  set +used\nhttp/token  http    key   ${time}  -\nwebhook     -       key   ${time}  -\n$`,
    ),
  );
  const unused = { kind: "key", set_at: expect.any(String), used_at: null, expires_at: null, trouble: null } as const;
  expect(JSON.parse((await home.cli("auth", "list", "--json")).stdout)).toEqual([
    { name: "http/token", plugin: "http", ...unused },
    { name: "webhook", plugin: null, ...unused },
  ]);
});

test("what cannot be done is refused with the way out, and the value is not repeated", async () => {
  const typed = secret("typed-as-an-argument");
  for (const word of [typed, `--value=${typed}`, `-${typed}`])
    for (const verb of ["add", "rotate"])
      expect(await home.cli("auth", verb, "webhook", word)).toEqual(
        failed(
          2,
          `auth ${verb}: a word too many, or an unknown option; a value is not taken from here`,
          `every process of the machine sees arguments. ipcctl auth ${verb} NAME asks for the value`,
        ),
      );
  expect(await home.cli("auth", "add", "new", "--from-env", typed)).toEqual(
    failed(2, "--from-env: there is no such variable", "give its name, not its value: --from-env TOKEN"),
  );
  expect(await piped(secret("another-value"), "auth", "add", "webhook")).toEqual(
    failed(1, "the credential webhook exists", "ipcctl auth rotate webhook gives it a new value"),
  );
  expect(await piped(secret("1234567"), "auth", "add", "new")).toEqual(
    failed(
      2,
      "the value for new has fewer than 8 characters",
      "a value that short cannot be taken out of what a plugin says, because ordinary text contains it",
    ),
  );
  VALUES.pop(); // too short to be searched for
  expect(await home.cli("auth", "rm", "token")).toEqual(
    failed(4, "there is no credential token", "it may be http/token"),
  );
  expect(await home.cli("auth", "rotate", "nothing")).toEqual(
    failed(4, "there is no credential nothing", "ipcctl auth list shows them"),
  );
  for (const args of [[], ["webhook", "--key"], ["--key", "--from-env", "HOME"]])
    expect((await home.cli("auth", "rotate", ...args)).status).toBe(2);
  file("bytes", Uint8Array.of(0xff, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8));
  expect((await home.cli("auth", "add", "new", "--from-file", "bytes")).stderr).toContain("bytes is not UTF-8");
  expect((await home.cli("auth", "add", "new", "--from-file", "/dev/zero")).stderr).toContain("more than 16384 bytes");
  using connection = await home.connect();
  expect(await errorOf(connection.addCredential("A/b", secret("for-no-name")))).toMatchObject({ code: "USAGE" });
});

test("at a terminal the value is typed without echo, and Ctrl-C gives up", async () => {
  const typed = secret("typed-at-a-terminal");
  const script = home.script(
    "typist.py",
    `
import os, pty, sys, time
name, keys = sys.argv[1], sys.argv[2].encode().decode("unicode_escape").encode()
pid, fd = pty.fork()
if pid == 0: os.execv(${JSON.stringify(join(ROOT, "bin/ipcctl"))}, ["ipcctl", "auth", "add", name])
shown = b""
while b"(not shown): " not in shown: shown += os.read(fd, 1000)
os.write(fd, keys)
try:
    while True:
        more = os.read(fd, 1000)
        if not more: break
        shown += more
except OSError: pass
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode().replace("\\r", ""))
`,
  );
  const type = async (name: string, keys: string): Promise<string> => {
    const child = Bun.spawn(["python3", script, name, keys], { env: home.env, stdin: "ignore", stdout: "pipe" });
    return await within(60_000, "typing", new Response(child.stdout).text());
  };
  expect(await type("typed", String.raw`forgotten\x15${typed}xy\x7f\x7f\r`)).toBe(
    "0 value of typed (not shown): \ntyped: added\n\n",
  );
  file("typed", typed);
  expect((await home.cli("auth", "rotate", "typed", "--from-file", "typed")).stderr).toContain("this is the value");
  expect(await type("left", String.raw`given-up\x03`)).toBe("130 value of left (not shown): \n\n");
  expect(await type("lines", String.raw`first-line\rsecond-line\r`)).toStartWith(
    "2 value of lines (not shown): \nipcctl: several lines were pasted, and a terminal gives one\n",
  );
  const names = (JSON.parse((await home.cli("auth", "list", "--json")).stdout) as { name: string }[]).map(
    (one) => one.name,
  );
  expect(names).toEqual(["http/token", "typed", "webhook"]);
});

test("programs have the same verbs, in TypeScript and in Python", async () => {
  using connection = await home.connect();
  await connection.addCredential("sdk", secret("from-typescript"), { plugin: "http" });
  await connection.rotateCredential("http/sdk", secret("from-typescript-again"));
  const script = home.script(
    "client.py",
    `
import ipcctl
with ipcctl.connect() as ipc:
    ipc.add_credential("python", ${JSON.stringify(secret("from-python"))})
    ipc.rotate_credential("python", ${JSON.stringify(secret("from-python-again"))})
    print([one["name"] for one in ipc.credentials()], ipc.rotate_key())
    print(ipc.verify_credentials(["python"]))
    ipc.remove_credential("python")
    try: ipc.remove_credential("python")
    except ipcctl.IpcError as error: print(error.code, error)
`,
  );
  const env = { ...environment, ...home.env, PYTHONPATH: join(ROOT, "python") };
  const child = Bun.spawn(["python3", script], { env, stdout: "pipe", stderr: "inherit" });
  expect(await new Response(child.stdout).text()).toBe(
    "['http/sdk', 'http/token', 'python', 'typed', 'webhook'] 5\n" +
      "[{'name': 'python', 'ok': True, 'message': 'opens'}]\nNOT_FOUND there is no credential python\n",
  );
  expect(await connection.rotateKey()).toBe(4);
  await connection.removeCredential("http/sdk");
});

test("a worker is refused, and none of the daemon's credentials are in its environment", async () => {
  const script = home.script(
    "asks.py",
    `
import os, subprocess, time
for words in (["list"], ["rm", "webhook"], ["rotate", "--key"]):
    done = subprocess.run([${JSON.stringify(join(ROOT, "bin/ipcctl"))}, "auth", *words], capture_output=True, text=True)
    print(done.returncode, done.stderr.splitlines()[0], flush=True)
print("CREDENTIALS_DIRECTORY" in os.environ, flush=True)
time.sleep(600)
`,
  );
  await home.start("asks", script, { env: { IPCCTL_HOME: home.env.IPCCTL_HOME, NO_COLOR: "1" } });
  await waitUntil(async () => (await home.lines("asks")).length === 4, "it has asked");
  const refusal = "1 ipcctl: a process inside a worker's tree may not control the daemon";
  expect(await home.lines("asks")).toEqual([refusal, refusal, refusal, "False"]);
});

test("a worker that may read the folder around them does not see them, and one that is granted them is refused", async () => {
  const script = home.script(
    "looks.py",
    `
import os, sys
try: found = os.listdir(sys.argv[1] + "/credentials")
except PermissionError: found = "closed"
print(found, "workers" in os.listdir(sys.argv[1]))
`,
  );
  const state = home.paths.stateDir;
  // Whoever owns them: root's workers would have another user's rights otherwise.
  const policy = file("own.json", JSON.stringify({ version: 1, extends: "strict", process: { uid: "keep" } }));
  const run = (path: string): Promise<CliResult> =>
    home.cli("run", "--policy", policy, "--allow-read", path, "-q", script, "--", state);
  expect(await run(state)).toEqual(done("closed True"));
  expect(await run(home.dir)).toEqual(done("closed True"));
  for (const path of [join(state, "credentials"), join(state, "credentials/key")])
    expect(await run(path)).toMatchObject({
      ...{ status: 5, stdout: "" },
      stderr: expect.stringContaining(`${path} would show the worker the credentials of the host`),
    });
  const bare = JSON.stringify({ version: 1, extends: "strict", process: { uid: "keep" }, isolation: { want: [] } });
  expect(await home.cli("run", "--policy", file("bare.json", bare), "--allow-read", state, script)).toMatchObject({
    ...{ status: 5, stdout: "" },
    stderr: expect.stringContaining("what it grants would show the worker the credentials of the host"),
  });
  const explained = await home.cli("policy", "explain", "strict", "--allow-read", state, script);
  expect(explained.stdout).toMatch(/credentials of the host +denied/);
});

test("the audit has who changed what, and what failed", async () => {
  const lines = (await home.cli("audit", "--json")).stdout.trim().split("\n");
  const changes = lines
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter((one) => one.event === "credential");
  const uid = process.getuid!();
  expect(changes).toContainEqual(
    expect.objectContaining({ worker: "", credential: "http/token", action: "add", verdict: "granted", uid }),
  );
  expect(changes).toContainEqual(expect.objectContaining({ action: "rotate key", verdict: "granted", uid }));
  expect(changes).toContainEqual(
    expect.objectContaining({ credential: "token", action: "remove", error: "there is no credential token" }),
  );
});

/** As text, and as what could be made of it by accident. */
const formsOf = (value: string): string[] => [
  value,
  JSON.stringify(value).slice(1, -1),
  Buffer.from(value).toString("hex"),
  Buffer.from(value).toString("base64").slice(0, 12),
];

test("no value is in any file, in what the daemon was started with, or in what it tells", async () => {
  expect(VALUES.length).toBeGreaterThan(8);
  const forms = VALUES.flatMap(formsOf);
  const found: string[] = [];
  const search = (place: string, text: string): void => {
    for (const form of forms) if (text.includes(form)) found.push(`${place}: ${form}`);
  };
  const state = home.env.IPCCTL_HOME!;
  const files = readdirSync(state, { recursive: true, encoding: "utf8" }).filter((name) =>
    statSync(join(state, name)).isFile(),
  );
  expect(files.some((name) => name.endsWith("daemon.log"))).toBe(true);
  for (const name of files) search(name, readFileSync(join(state, name), "latin1"));
  const pid = await home.daemonPid();
  for (const name of ["cmdline", "environ"]) search(name, readFileSync(`/proc/${pid}/${name}`, "latin1"));
  for (const args of [
    ["status", "--json"],
    ["daemon", "status", "--json"],
    ["describe", "asks", "--json"],
    ["auth", "list"],
    ["audit"],
  ])
    search(args.join(" "), Object.values(await home.cli(...args)).join("\n"));
  expect(found).toEqual([]);
});

test("a daemon that is killed while it changes the key is followed by one that goes on with it", async () => {
  const folder = join(home.paths.stateDir, "credentials");
  writeFileSync(join(folder, "key.next"), `${"c".repeat(64)}\n`, { mode: 0o600 }); // as it is then
  const before = readFileSync(join(folder, "key"));
  await home.killDaemon();
  expect((await home.cli("auth", "list")).stderr).toBe("");
  expect(readdirSync(folder)).not.toContain("key.next");
  expect(readFileSync(join(folder, "key"))).not.toEqual(before);
});

test("what others can use is told when the daemon starts, and workers run all the same", async () => {
  const folder = join(home.paths.stateDir, "credentials");
  chmodSync(folder, 0o755);
  await home.killDaemon();
  const { stdout, stderr } = await home.cli("status");
  expect(stdout).toContain("asks");
  expect(stderr).toContain(`${folder} can be used by others (mode 755) (chmod 700 ${folder}; `);
  expect(await home.cli("auth", "list")).toMatchObject({ status: 1 });
  chmodSync(folder, 0o700);
  expect((await home.cli("auth", "list")).stdout).toContain("http/token");
});

test("systemd's key is taken from the folder that it names", async () => {
  await withDaemon(async (other) => {
    const folder = join(other.dir, "given");
    mkdirSync(folder);
    writeFileSync(join(folder, "ipcctl-key"), "k".repeat(44), { mode: 0o400 });
    other.env.CREDENTIALS_DIRECTORY = folder;
    other.env.TOKEN = "a-value-under-systemd";
    expect((await other.cli("auth", "add", "token", "--from-env", "TOKEN")).stdout).toBe("token: added\n");
    expect(readdirSync(join(other.paths.stateDir, "credentials"))).toEqual(["token.sealed"]);
    // That command started the daemon, which must not inherit the variable.
    expect(readFileSync(`/proc/${await other.daemonPid()}/environ`, "latin1")).not.toContain("a-value");
    using connection = await other.connect();
    const { message } = await errorOf(connection.rotateKey());
    expect(message).toBe("everything is sealed with the key that systemd gave");
  });
});
