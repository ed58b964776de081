/** Programs that ask the host by lines of their stdout: the shipped daemon, its router, and what is killed between. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { limit } from "../../src/base/limits.ts";
import { mountDisk, resizeDisk, unmountDisk } from "../disk.ts";
import { Home, isAlive, ROOT, waitUntil, withDaemon } from "../home.ts";
import { recordsOf, recordsWith } from "./asking.ts";
import { skipUnless } from "../needs.ts";
import { installNode, NODE_VERSION } from "../node.ts";
import { seed } from "../seed.ts";
import { installSlow } from "./slow-plugin.ts";

const node = await installNode();
let home: Home;
let ipc: Ipcctl;
let slow: Awaited<ReturnType<typeof installSlow>>;

beforeAll(async () => {
  home = new Home();
  slow = await installSlow(home);
  ipc = new Ipcctl(await home.connect());
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

const TOOLS = ["echo.*", "files.*", "slow.*"];

/** Of all that a worker may be shown, so that nothing of ipcctl is. */
function folderOf(of: Home): string {
  const folder = join(of.dir, "project");
  mkdirSync(folder, { recursive: true });
  return folder;
}

function definition(of: Home, more: object = {}, policy: object = {}): object {
  const folder = folderOf(of);
  const own = {
    ...{ version: 1, extends: "strict", files: { read: [folder, ROOT], exec: ["/usr/bin", "/bin"] } },
    ...{ process: { exec: true, fork: true, procfs: "self" }, limits: { memory: "2G", openFiles: 256 }, ...policy },
  };
  return {
    ...{ cwd: folder, policy: JSON.stringify(own), tools: TOOLS, transport: "stdio", restart_policy: "no" },
    ...{ interpreter: "python3", approval_timeout: "100ms", ...more },
  };
}

async function begin(name: string, text: string, more: object = {}, of = home): Promise<void> {
  const isModule = text.startsWith("import {");
  const script = join(folderOf(of), `${name}.${isModule ? "mjs" : "script"}`);
  writeFileSync(script, text);
  await of.start(name, script, definition(of, more));
}

const hasEnded = (name: string, of = home): Promise<void> =>
  waitUntil(async () => ["Stopped", "Crashed"].includes((await of.status(name)).state), `${name} has ended`);

const rawOf = (name: string): string => join(home.dir, `${name}.raw`);

/** What a worker prints until its end, to the byte. */
async function run(name: string, text: string, more: object = {}): Promise<{ raw: Buffer; lines: string[] }> {
  const raw = rawOf(name);
  await begin(name, text, { stdout_log: raw, ...more });
  await hasEnded(name);
  const errors = await home.errorLines(name);
  if (errors.length > 0) throw new Error(errors.join("\n"));
  return { raw: existsSync(raw) ? readFileSync(raw) : Buffer.alloc(0), lines: await home.lines(name) };
}

const isOf =
  (worker: string) =>
  (record: Record<string, unknown>): boolean =>
    record.worker === worker && record.event === "tool";
const records = (worker: string): Record<string, unknown>[] => recordsOf(home).filter(isOf(worker));

/** What scripts begin with that ask in Python. */
const ASK = `import json, os, sys, time
def tell(text): sys.stdout.buffer.write(text if isinstance(text, bytes) else text.encode()); sys.stdout.buffer.flush()
def answer(): return json.loads(sys.stdin.readline())
def ask(id, method, params=None):
    tell(json.dumps({"id": id, "method": method} | ({} if params is None else {"params": params})) + "\\n")
    return answer()
def say(value): tell(json.dumps(value, ensure_ascii=False) + "\\n")
def await_file(name):
    while not os.path.exists(name): time.sleep(0.01)
`;

test("scripts of before, in Python and TypeScript, run unchanged, and are told what ipcctl.host is over shm", async () => {
  const folder = folderOf(home);
  const ancestors = { python: ["analysis.py", "python3"], typescript: ["analysis.ts", process.execPath] } as const;
  for (const [name, [file, interpreter]] of Object.entries(ancestors)) {
    copyFileSync(join(import.meta.dir, "ancestor", file), join(folder, file));
    await home.start(name, join(folder, file), definition(home, { interpreter, stdout_log: rawOf(name) }));
  }
  writeFileSync(
    join(folder, "own.py"),
    `import json
from ipcctl import host
outcomes = []
def attempt(tool, **arguments):
    try: outcomes.append(host.call(tool, arguments))
    except host.HostError as error: outcomes.append(str(error))
    return outcomes[-1]
print("Analysis begins")
attempt("echo.echo", value=[1, None, {"text": "ä\\n\\u2028\\"\\\\", "deep": {"keptAsItIs": True}}])
id = attempt("files.write", name="sales.csv", content="month,total\\n1,2\\n", conversation_id="c1")["file"]["id"]
print(json.dumps({"progress": 0.5}))
attempt("files.list", conversation_id="c1")
attempt("files.list", conversation_id="c2")
attempt("files.read", id=id)
attempt("files.read", id="none")
outcomes.append("")
attempt("echo.echo")
attempt("none.such")
attempt("memory.list")
attempt("echo.echo", value="x" * 150_000)
print(json.dumps({"outcomes": outcomes}))
`,
  );
  await home.start(
    "shared",
    join(folder, "own.py"),
    definition(home, { transport: "shm", stdout_log: rawOf("shared") }),
  );
  const TWICE = 6;
  const told = async (name: string): Promise<unknown[]> => {
    await hasEnded(name);
    expect(await home.errorLines(name)).toEqual([]);
    const [first, progress, last] = readFileSync(rawOf(name), "utf8").split("\n");
    expect([first, JSON.parse(progress!)]).toEqual(["Analysis begins", { progress: 0.5 }]);
    // Whose file it is, and when it was written, is another thing each time.
    const text = last!
      .replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "ID")
      .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
      .replaceAll(/("version": ?)"\d+"/g, '$1"V"')
      .replaceAll(new RegExp(`\\b(worker|policy of) ${name}\\b`, "g"), "$1 W");
    return (JSON.parse(text) as { outcomes: unknown[] }).outcomes;
  };
  const [python, typescript, shared] = await Promise.all(["python", "typescript", "shared"].map(told));
  expect(python).toHaveLength(11);
  expect(typescript).toEqual(python);
  expect(python![TWICE]).toMatch(/^VALIDATION_FAILED: .*conversation_id.*two spellings/);
  expect(python!.toSpliced(TWICE, 1)).toEqual(shared!.toSpliced(TWICE, 1));
  await recordsWith(home, isOf("python"), python!.length);
  await recordsWith(home, isOf("shared"), python!.length - 1);
  const [of, over] = ["python", "shared"].map((name) =>
    records(name).map(({ tool, verdict, code, stage }) => ({ tool, verdict, code, stage })),
  );
  expect(of!.toSpliced(TWICE, 1)).toEqual(over!);
}, 60_000);

test("a shell and a program in C ask as well", async () => {
  const shell = `echo '{"id":"1","method":"echo.echo","params":{"value":"from a shell"}}'; read -r answer; echo "got $answer"`;
  expect((await run("shell", shell, { interpreter: "/bin/sh" })).lines).toEqual([
    'got {"id":"1","result":{"value":"from a shell"}}',
  ]);
  const [source, binary] = [join(folderOf(home), "asker.c"), join(folderOf(home), "asker")];
  writeFileSync(
    source,
    `#include <stdio.h>
int main(void) {
  char answer[256];
  puts("{\\"id\\":\\"c\\",\\"method\\":\\"echo.echo\\",\\"params\\":{\\"value\\":7}}");
  fflush(stdout);
  if (fgets(answer, sizeof answer, stdin) == NULL) return 1;
  printf("got %s", answer);
  return 0;
}
`,
  );
  expect(Bun.spawnSync(["cc", "-o", binary, source]).exitCode).toBe(0);
  expect((await run("in-c", "", { interpreter: binary })).lines).toEqual(['got {"id":"c","result":{"value":7}}']);
});

/** What a program prints, in pieces: output, and requests with their answers. */
type Piece = { readonly text: string | Buffer; readonly answers?: number };

test("what is no request is in the log as it was printed, in its order, and requests are not", async () => {
  const forms = ['{"id":"1","result":"forged"}', '{"level":"info"}', "{}", "[1]", "{", "", "   ", "\t{", '"id"'];
  const like = ['{"id":"1","method":"echo.echo","params":{},"source":"w"}', "{'id': '1', 'method': 'echo.echo'}"];
  const request = (id: string): string => `{"id":"${id}","method":"echo.echo","params":{"value":"${id}"}}\n`;
  const long = `{"id":"1","method":"echo.echo","params":"${"x".repeat(2_000_000)}`;
  const pieces: Piece[] = [
    { text: "first\n" },
    { text: request("1"), answers: 1 },
    ...[...forms, ...like, `x${request("no").trim()}`, "no newline yet"].map((text) => ({ text: `${text}\n` })),
    { text: Buffer.from(Array.from({ length: 20_000 }, (_, at) => at % 251)) },
    { text: `\n${"{".repeat(300_000)}\r\n` },
    { text: "{".repeat(100) },
    { text: "}\n" },
    ...Array.from(request("in pieces")).map((text) => ({ text, answers: text === "\n" ? 1 : 0 })),
    { text: ` \t{"params":{"value":4} , "method": "echo.echo" ,"id":"4"}\t\r\n${request("5")}`, answers: 2 },
    { text: "between\n" },
    { text: long.slice(0, 700_000) },
    { text: `${long.slice(700_000)}\n` },
    { text: request("7") + request("8"), answers: 2 },
    { text: '{"id":"9","method":"echo.echo","params":{}}' }, // without a newline it is nothing that waits for an answer
  ];
  const isOutput = ({ answers }: Piece): boolean => answers === undefined;
  const stored = pieces.map(({ text, answers = 0 }) => [Buffer.from(text).toString("base64"), answers]);
  writeFileSync(join(folderOf(home), "pieces.json"), JSON.stringify(stored));
  const { raw } = await run(
    "prints",
    `${ASK}import base64
for text, answers in json.load(open("pieces.json")):
    tell(base64.b64decode(text))
    for _ in range(answers): assert "result" in answer()
`,
  );
  const printed = Buffer.concat(pieces.filter(isOutput).map(({ text }) => Buffer.from(text)));
  expect(raw.equals(printed)).toBe(true);
}, 60_000);

test("under a policy that lets it start nothing, and forked from a snapshot", async () => {
  const made = await home.cli("snapshot", "create", "warm", "--import", "json", "--policy", "strict");
  expect(made.stderr).toBe("");
  const text = `${ASK}say(ask("1", "echo.echo", {"value": 1}))`;
  for (const [name, more] of [
    ["bare", {}],
    ["forked", { snapshot: "warm", interpreter: undefined }],
  ] as const)
    expect((await run(name, text, { policy: "strict", ...more })).lines).toEqual([
      '{"id": "1", "result": {"value": 1}}',
    ]);
}, 60_000);

test("what is wrong with a request is told with its id, whatever it is, and nothing else is carried out", async () => {
  const { lines } = await run(
    "wrong",
    `${ASK}
def code(line):
    tell(line if isinstance(line, bytes) else line.encode())
    tell("\\n")
    got = answer()
    say([got["id"], got.get("code"), got.get("retriable"), got.get("error", "").startswith(str(got.get("code")) + ": ")])
def request(params, id='"1"', method='"echo.echo"'): return '{"id":%s,"method":%s,"params":%s}' % (id, method, params)
code(request("[1]"))
code(request("null"))
code(request('{"value":1}').replace('"method"', '"id":"2","method"'))
code(request('{"value":1,"value":2}'))
code(request('{"value":{"__proto__":{"a":1}}}'))
code(request('{"constructor":1,"toString":2}'))
code(request("[" * 70 + "]" * 70))
code(request('{"value":[%s]}' % ",".join("1" * 70_000)))
code(request('{"value":"X"}').encode().replace(b"X", b"\\xff\\xfe"))
code(request('{"value":"\\\\ud800"}'))
code(request("{}", method='"%s"' % ("m" * 200)))
code(request("{}", method='"echo.\\\\u0065cho"'))
code(request("{}", method='"../../tool.cancel"'))
for id in ['""', '"ä"', '"\\\\"\\\\\\\\\\\\u0001"', '"~1"', '"%s"' % ("x" * 129)]:
    tell(request('{"value":1}', id) + "\\n")
    got = answer()
    say([got["id"] == json.loads(id), got["result"]])
`,
  );
  const [x, y] = ["MALFORMED", "TOO_LARGE"];
  expect(lines.slice(0, 13).map((line) => JSON.parse(line) as unknown[])).toEqual([
    ...[
      ["1", x],
      ["1", x],
      ["2", x],
      ["1", x],
      ["1", x],
      ["1", "VALIDATION_FAILED"],
      ["1", y],
      ["1", y],
      ["1", x],
    ].map(([id, code]) => [id, code, false, true]),
    ...[x, x, "UNKNOWN_TOOL", "UNKNOWN_TOOL"].map((code) => ["1", code, false, true]),
  ]);
  expect(lines.slice(13).map((line) => JSON.parse(line) as unknown)).toEqual(
    Array.from({ length: 5 }, () => [true, { value: 1 }]),
  );
  await recordsWith(home, (record) => isOf("wrong")(record) && record.verdict === "granted", 5);
  expect(records("wrong").filter(({ verdict }) => verdict === "granted")).toHaveLength(5);
  expect(new Set(records("wrong").map(({ session }) => session))).toEqual(new Set(["wrong.1"]));
});

test("correlationChars: an id of so many characters is the correlation, and a longer one has another in the audit", async () => {
  // CORRELATION_CHARS_MAX
  const ids = [128, 129].map((length) => "x".repeat(length));
  await run("ids", `${ASK}\nfor id in ${JSON.stringify(ids)}: assert ask(id, "echo.echo", {"value": 1})["id"] == id`);
  await recordsWith(home, isOf("ids"), ids.length);
  expect(records("ids").map(({ correlation }) => correlation)).toEqual([ids[0], "~1"]);
  expect(ids[0]).toHaveLength(limit("correlationChars"));
});

test("an id that is under way is refused, and one that comes again is the same request to what must not run twice", async () => {
  const { lines } = await run(
    "again",
    `${ASK}
def send(id, method, params={}): tell(json.dumps({"id": id, "method": method, "params": params}) + "\\n")
send("1", "slow.danger"); send("1", "echo.echo", {"value": 2})
say([answer()["code"], answer()["code"]])
say([ask("2", "echo.echo", {"value": n})["result"]["value"] for n in range(2)])
content = {"name": "a", "content": "once"}
first, second = ask("3", "files.write", content), ask("3", "files.write", content)
say(first == second)
say(ask("3", "files.write", content | {"content": "more"})["code"])
`,
  );
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
    ["DUPLICATE_CORRELATION", "CONFIRMATION_TIMEOUT"],
    [0, 1],
    true,
    "DUPLICATE_CORRELATION",
  ]);
});

test("hostMessageBytes: a request of as many bytes is carried out, and a longer one is told so and stays in the log", async () => {
  // HOST_MESSAGE_BYTES_MAX: as the helper sends it, and as a line.
  const wire = '{"topic":"tool.invoke.echo.echo","correlation":"1","arguments":{"value":""}}'.length;
  const most = limit("hostMessageBytes");
  const { raw, lines } = await run(
    "large",
    `${ASK}
def size(count, head='"id":"1","method":"echo.echo",', tail=""):
    tell("{%s\\"params\\":{\\"value\\":\\"%s\\"}%s}\\n" % (head, "x" * count, tail))
    got = answer()
    say([got["id"], got.get("code"), len(got.get("result", {}).get("value", ""))])
size(${most - wire})
size(${most - wire + 1})
size(${most})
size(5_000_000, "", ',"id":"1","method":"echo.echo"')
`,
  );
  const told = lines.filter((line) => line.startsWith("[")).map((line) => JSON.parse(line) as unknown);
  expect(told).toEqual([["1", null, most - wire], ...Array.from({ length: 3 }, () => ["1", "TOO_LARGE", 0])]);
  expect(raw.length).toBeGreaterThan(most - wire + most + 5_000_000);
}, 60_000);

const ROUTER = "host-router";
const killRouter = async (): Promise<void> => {
  process.kill((await ipc.status(ROUTER)).pid!, "SIGKILL");
};
/** Line helpers: of the shim's own children, those that may do next to nothing. */
async function helpersOf(name: string, of = home): Promise<number[]> {
  const { pid } = await of.status(name);
  const record = readFileSync(join(of.paths.stateDir, "workers", name, "run"), "utf8");
  const shim = /^shim_pid=(\d+)$/m.exec(record)![1]!;
  const children = readFileSync(`/proc/${shim}/task/${shim}/children`, "utf8").trim().split(" ").map(Number);
  const status = (child: number): string => readFileSync(`/proc/${child}/status`, "utf8");
  return children.filter((child) => child !== pid && /^Name:\tipcctl-shim\n[^]*^Seccomp:\t2$/m.test(status(child)));
}

test("a killed router or plugin leaves no request without its answer, and begins nothing twice that must not be", async () => {
  await begin(
    "dying",
    `${ASK}
for n in range(50): tell("before %d\\n" % n)
for method in ["slow.gate", "slow.gate_once"]: tell(json.dumps({"id": method, "method": method}) + "\\n")
got = {}
while len(got) < 2:
    one = answer()
    got[one["id"]] = one
for n in range(50): tell("after %d\\n" % n)
say(got)
say([ask(m, m).get("code") for m in ["slow.crash", "slow.hang", "slow.refuse"]])
say(ask("last", "echo.echo", {"value": 1}))
`,
  );
  await waitUntil(() => slow.effects("gate") === 1 && slow.effects("gate_once") === 1, "both have begun");
  await killRouter();
  await waitUntil(() => slow.effects("gate") === 2, "the idempotent one has begun again");
  slow.open("gate");
  await hasEnded("dying");
  const lines = await home.lines("dying");
  const numbered = (word: string): string[] => Array.from({ length: 50 }, (_, at) => `${word} ${at}`);
  expect(lines.slice(0, 100)).toEqual([...numbered("before"), ...numbered("after")]);
  expect(JSON.parse(lines[100]!)).toEqual({
    "slow.gate": { id: "slow.gate", result: { done: "gate" } },
    "slow.gate_once": {
      ...{ id: "slow.gate_once", code: "UNKNOWN_OUTCOME", retriable: false, stage: "route" },
      error: expect.stringMatching(/^UNKNOWN_OUTCOME: /),
    },
  });
  expect(lines.slice(101).map((line) => JSON.parse(line) as unknown)).toEqual([
    ["PLUGIN_ERROR", "PLUGIN_TIMEOUT", "EMPTY"],
    { id: "last", result: { value: 1 } },
  ]);
  expect(slow.effects("gate_once")).toBe(1);
}, 60_000);

test("of lines of any kind in pieces of any size each is in the log or answered once, whatever becomes of routers", async () => {
  await begin(
    "any",
    `${ASK}
import hashlib, random, threading
chance = random.Random(${seed})
printed, all, asked = b"", b"", 0
for _ in range(500):
    size = chance.choice([0, 10, 1000, 70_000])
    request = json.dumps({"id": "r%d" % asked, "method": chance.choice(["echo.echo", "no.such"]), "params": {"value": "v" * size}})
    kind = chance.randrange(5)
    if kind < 2:
        asked += 1
        all += (chance.choice(["", " "]) + request + chance.choice(["", "\\r"]) + "\\n").encode()
        continue
    line = request[: chance.randrange(len(request))].encode() if kind == 2 else b'{"level":"info"}' if kind == 3 else chance.randbytes(size // 10).replace(b"\\n", b"")
    printed += line + b"\\n"
    all += line + b"\\n"
got = []
def read():
    while len(got) < asked: got.append(answer()["id"])
reader = threading.Thread(target=read)
reader.start()
while all: all = all[os.write(1, all[: chance.choice([1, 7, 100, 5000, 60_000, 200_000])]) :]
reader.join()
print(hashlib.sha256(printed).hexdigest(), sorted(got) == sorted("r%d" % n for n in range(asked)), file=sys.stderr)
`,
    { stdout_log: rawOf("any"), log: { max_size: "64M" } },
  );
  const size = (): number => (existsSync(rawOf("any")) ? statSync(rawOf("any")).size : 0);
  for (let kills = 0; kills < 3; kills++) {
    const before = size();
    await waitUntil(async () => size() > before || (await home.status("any")).state === "Stopped", "it goes on");
    await killRouter().catch(() => undefined); // the next one has not begun
  }
  await hasEnded("any");
  const hash = new Bun.CryptoHasher("sha256").update(readFileSync(rawOf("any"))).digest("hex");
  expect(await home.errorLines("any")).toEqual([`${hash} True`]);
}, 60_000);

test("what happens to the daemon is nothing to it, and the next one brings the next router", async () => {
  await withDaemon(async (other) => {
    const folder = folderOf(other);
    const text = `${ASK}
for n in range(3):
    say(ask(str(n), "echo.echo", {"value": n}))
    await_file(str(n))
`;
    await begin("outliving", text, {}, other);
    const lines = async (): Promise<number> => (await other.lines("outliving")).length;
    await waitUntil(async () => (await lines()) === 1, "it is answered");
    const { pid } = await other.status("outliving");
    await other.killDaemon();
    writeFileSync(join(folder, "0"), "");
    await waitUntil(async () => (await lines()) === 2, "it is answered without the daemon that opened its channel");
    process.kill((await other.status(ROUTER)).pid!, "SIGKILL");
    writeFileSync(join(folder, "1"), "");
    await waitUntil(async () => (await lines()) === 3, "the next router answers");
    expect((await other.status("outliving")).pid).toBe(pid);
    writeFileSync(join(folder, "2"), "");
    await hasEnded("outliving", other);
    expect(await other.errorLines("outliving")).toEqual([]);
  });
}, 60_000);

test("requests under way are given up with a program that ends, and its output is whole", async () => {
  const [begun, before] = [slow.effects("gate_once"), slow.effects("aborted gate_once")];
  await begin(
    "leaving",
    `${ASK}
tell('{"id":"1","method":"slow.gate_once"}\\n')
await_file("leave")
for n in range(2000): tell("line %d\\n" % n)
tell("no newline")
`,
  );
  await waitUntil(() => slow.effects("gate_once") === begun + 1, "it has begun");
  writeFileSync(join(folderOf(home), "leave"), "");
  await hasEnded("leaving");
  await waitUntil(() => slow.effects("aborted gate_once") === before + 1, "it is given up");
  expect(await home.lines("leaving")).toEqual([...Array.from({ length: 2000 }, (_, at) => `line ${at}`), "no newline"]);
}, 60_000);

test("on a full disk nothing is lost, also of a program that has ended meanwhile", async () => {
  const logs = join(home.paths.workersDir, "full", "logs");
  mkdirSync(logs, { recursive: true });
  if (!mountDisk(logs, "1m", "a full disk")) return;
  try {
    writeFileSync(join(logs, "ballast"), Buffer.alloc(512 * 1024));
    const count = 6200; // more than the log and its shim take, and less than with the helper and its pipe
    const text = `${ASK}
say(ask("1", "echo.echo", {"value": 1})["result"])
for n in range(${count}): os.write(1, b"%078d\\n" % n)
`;
    await begin("full", text, { log: { max_size: 0, max_files: 0 }, stop_timeout: "60s" });
    await waitUntil(async () => (await home.status("full")).log_blocked, "the log is blocked");
    const { pid } = await home.status("full");
    await waitUntil(() => pid === null || !isAlive(pid), "the program has ended");
    rmSync(join(logs, "ballast"));
    resizeDisk(logs, "8m");
    await hasEnded("full");
    const lines = await home.lines("full");
    expect(lines.slice(1).map(Number)).toEqual(Array.from({ length: count }, (_, at) => at));
    expect((await home.status("full")).log_dropped_lines).toBe(0);
  } finally {
    unmountDisk(logs);
  }
}, 60_000);

test("who closes its stdin is not answered, and one that closes its stdout is still", async () => {
  await begin(
    "deaf",
    `${ASK}
os.close(0)
for n in range(2): tell('{"id":"%d","method":"files.write","params":{"name":"deaf%d","content":"x"}}\\nprinted\\n' % (n, n))
await_file("heard")
`,
  );
  await waitUntil(async () => (await home.cli("files", "ls", "deaf")).stdout.includes("deaf1"), "both are carried out");
  writeFileSync(join(folderOf(home), "heard"), "");
  await hasEnded("deaf");
  expect(await home.lines("deaf")).toEqual(["printed", "printed"]);
  await begin(
    "mute",
    `${ASK}
tell('{"id":"1","method":"echo.echo","params":{"value":1}}\\n')
os.close(1)
print(answer(), file=sys.stderr)
os.close(0)
await_file("done")
`,
  );
  await waitUntil(async () => (await home.errorLines("mute")).length === 1, "it is answered");
  await waitUntil(async () => (await helpersOf("mute")).length === 0, "nobody is needed between it and its log");
  expect((await home.status("mute")).state).toBe("Running");
  writeFileSync(join(folderOf(home), "done"), "");
  await hasEnded("mute");
  expect((await home.status("mute")).state).toBe("Stopped");
});

test.each([
  ["stdioRequests", limit("stdioRequests"), 1000, 1400], // STDIO_REQUESTS_MAX
  ["stdioBytes", limit("stdioBytes") / 131_072, 131_072, 24], // STDIO_BYTES_MAX
])(
  "%s: one that does not read its answers may have %d of them, and slows nobody else",
  async (_, most, size, pipes) => {
    const name = `behind-${size}`;
    await begin(
      name,
      `${ASK}
import select
os.set_blocking(1, False)
line = json.dumps({"id": "i", "method": "echo.echo", "params": {"value": "x" * ${size}}}).encode()
sent, rest = 0, b""
def flush():
    global rest
    while rest:
        try: rest = rest[os.write(1, rest):]
        except BlockingIOError:
            if not select.select([], [1], [], 3)[1]: return False
    return True
while flush():
    sent += 1
    rest = line.replace(b'"i"', b'"%d"' % sent) + b"\\n"
    if sent > ${2 * (most + pipes)}: break
print(sent, file=sys.stderr, flush=True)
await_file("read")
os.set_blocking(1, True)
import threading
threading.Thread(target=lambda: tell(rest)).start()
print(sum("result" in answer() for _ in range(sent)), file=sys.stderr, flush=True)
`,
    );
    await waitUntil(async () => (await home.errorLines(name)).length === 1, "it waits for room");
    const sent = Number((await home.errorLines(name))[0]);
    // What fits into the pipes on both sides comes on top.
    expect(sent).toBeGreaterThanOrEqual(most);
    expect(sent).toBeLessThan(most + pipes);
    const other = `${ASK}say(ask("1", "echo.echo", {"value": 1}))`;
    expect((await run(`beside-${size}`, other)).lines).toHaveLength(1);
    writeFileSync(join(folderOf(home), "read"), "");
    await hasEnded(name);
    expect((await home.errorLines(name))[1]).toBe(String(sent)); // each was answered
  },
  120_000,
);

test("a flood of output passes, with requests in between", async () => {
  const text = `${ASK}
for n in range(10):
    tell(b"%06d" % n + b"x" * 1_000_000 + b"\\n" + b"short\\n" * 5_000)
    say(ask(str(n), "echo.echo", {"value": n})["result"]["value"])
`;
  await begin("flood", text, { stdout_log: rawOf("flood"), log: { max_size: "64M" } });
  await hasEnded("flood");
  const blocks = Array.from(
    { length: 10 },
    (_, n) => `00000${n}${"x".repeat(1_000_000)}\n${"short\n".repeat(5_000)}${n}\n`,
  );
  expect(readFileSync(rawOf("flood"), "utf8") === blocks.join("")).toBe(true);
}, 120_000);

test("several processes of a worker ask on one stdout, and one of them reads what is answered", async () => {
  const { lines } = await run(
    "several",
    `${ASK}
for child in range(4):
    if os.fork() == 0:
        for n in range(50): tell('{"id":"%d-%d","method":"echo.echo","params":{"value":%d}}\\nprinted %d-%d\\n' % (child, n, n, child, n))
        os._exit(0)
got = [answer() for _ in range(200)]
for _ in range(4): os.wait()
say([len({one["id"] for one in got}), all(one["result"]["value"] == int(one["id"].split("-")[1]) for one in got)])
`,
  );
  expect(lines.at(-1)).toBe("[200, true]");
  expect(lines.slice(0, -1).toSorted()).toEqual(
    Array.from({ length: 200 }, (_, at) => `printed ${at % 4}-${Math.floor(at / 4)}`).toSorted(),
  );
});

test("the helper is no process that could do anything, and with it the worker ends", async () => {
  await begin("helped", `${ASK}say(ask("1", "echo.echo", {"value": 1}))\nwhile True: time.sleep(1)`);
  await waitUntil(async () => (await home.lines("helped")).length === 1, "it is answered");
  const [helper, ...more] = await helpersOf("helped");
  expect(more).toEqual([]);
  process.kill(helper!, "SIGKILL");
  await hasEnded("helped");
  expect(await home.lines("helped")).toHaveLength(1);
  await begin("unsupervised", "import time\ntime.sleep(1000)");
  const [left] = await helpersOf("unsupervised");
  process.kill((await home.status("unsupervised")).shim_pid!, "SIGKILL");
  await waitUntil(() => !isAlive(left!), "a helper ends with its shim");
  await begin("other", `${ASK}import time\ntime.sleep(1000)`, { transport: "shm" });
  expect(await helpersOf("other")).toEqual([]); // nobody pays for it who does not ask by lines
  await ipc.stop("other");
});

test("the package asks beside what the program itself asks, prints and reads, and ipc says that it cannot", async () => {
  const { lines } = await run(
    "both",
    `${ASK}
import subprocess, threading
from ipcctl import host
tell('{"id":"mine","method":"echo.echo","params":{"value":"mine"}}\\n')
print("begun, ", end="", flush=True)
say(host.call("echo.echo", value=1))
say(answer())
ends = []
def ask_much(n):
    for _ in range(20): ends.append(host.call("echo.echo", value="x" * 90_000 + str(n))["value"] == "x" * 90_000 + str(n))
threads = [threading.Thread(target=ask_much, args=(n,)) for n in range(4)]
for one in threads: one.start()
for n in range(3000): print("line", n)
for one in threads: one.join()
say([len(ends), all(ends)])
sys.stdout.flush()
say(ask("last", "echo.echo", {"value": 2}))
said = subprocess.run(["ipc", "tools"], capture_output=True)
say([said.returncode, json.loads(said.stderr)["error"]["message"]])
child = "from ipcctl import host\\ntry: host.call('echo.echo', value=1)\\nexcept host.HostError as error: print(error)"
for stdout in [subprocess.PIPE, None]:
    os.environ["PYTHONPATH"] = ${JSON.stringify(join(ROOT, "python"))}
    said = subprocess.run([sys.executable, "-c", child], stdout=stdout, stdin=subprocess.DEVNULL)
    if stdout: say(said.stdout.decode())
said = subprocess.run([sys.executable, "-c", child])
if os.fork() == 0:
    try: host.call("echo.echo", value=1)
    except host.HostError as error: say(str(error))
    sys.exit()
os.wait()
say(host.call("echo.echo", value=3))
`,
  );
  const told = lines.filter((line) => !/^line \d+$/.test(line));
  expect(lines.filter((line) => /^line \d+$/.test(line))).toEqual(
    Array.from({ length: 3000 }, (_, at) => `line ${at}`),
  );
  const elsewhere = /UNAUTHORIZED: stdin of this process is not that of its worker/;
  expect(told).toEqual([
    'begun, {"value": 1}',
    '{"id": "mine", "result": {"value": "mine"}}',
    "[80, true]",
    '{"id": "last", "result": {"value": 2}}',
    expect.stringMatching(/^\[5, "this worker was started with --transport stdio/),
    ...[expect.stringMatching(elsewhere), expect.stringMatching(elsewhere)],
    expect.stringMatching(/^UNAUTHORIZED: another process of this worker asks/),
    expect.stringMatching(/^"UNAUTHORIZED: a forked process/),
    '{"value": 3}',
  ]);
}, 60_000);

test("a request that is marked may stand within a line, and whatever else is marked is output", async () => {
  const { raw } = await run(
    "marked",
    `${ASK}
def request(id): return '\\x1e{"id":"%s","method":"echo.echo","params":{"value":1}}\\n' % id
tell("one" + request("1") + "two\\n" + request("2") + "three\\x1e" + request("3") + '{"id":"4","method":"echo.echo"}\\n')
for _ in range(3): assert answer()["result"] == {"value": 1}
tell("\\x1e\\n\\x1e{}\\n {\\x1e{\\x1e\\x1e1\\n\\x1e" + "{" * 10)
`,
  );
  const all = 'onetwo\nthree\x1e{"id":"4","method":"echo.echo"}\n\x1e\n\x1e{}\n {\x1e{\x1e\x1e1\n\x1e' + "{".repeat(10);
  expect(raw.toString()).toBe(all);
});

test("a program gives up what it has asked by its id, and that is its answer", async () => {
  const { lines } = await run(
    "gives-up",
    `${ASK}
tell('{"id":"1","method":"cancel"}\\n{"id":"1","method":"slow.danger"}\\n{"id":"1","method":"cancel"}\\n')
say(answer()["code"])
say(ask("2", "cancel", {})["code"])
say(ask("3", "echo.echo", {"value": 1})["result"])
`,
  );
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual(["CANCELLED", "UNKNOWN_TOOL", { value: 1 }]);
}, 60_000);

test.each(["bun", "node"])("a program on %s is not kept by it, and reads what else comes", async (runtime) => {
  if (skipUnless(runtime === "bun" || node !== undefined, `Node ${NODE_VERSION}`, "asking on Node")) return;
  const entry = JSON.stringify(join(ROOT, runtime === "bun" ? "src/index.ts" : "build/js/ipcctl.node.js"));
  const { lines } = await run(
    `kept-${runtime}`,
    `import { writeSync } from "node:fs";
import { host } from ${entry};
writeSync(1, '{"id":"mine","method":"echo.echo","params":{"value":"mine"}}\\nbegun, ');
console.log(JSON.stringify(await host.call("echo.echo", { value: 1 })));
await host.call("core.get_session_info"); // until that of before is there as well
process.stdin.once("data", (text) => {
  console.log(String(text).trim());
  host.call("echo.echo", { value: 2 }).then(({ value }) => {
    console.log(value);
    process.stdin.pause();
  });
});
`,
    { interpreter: runtime === "bun" ? process.execPath : node },
  );
  expect(lines).toEqual(['begun, {"value":1}', '{"id":"mine","result":{"value":"mine"}}', "2"]);
  const quick = `import { host } from ${entry};\nconsole.log((await host.call("echo.echo", { value: 1 })).value);`;
  const more = { interpreter: runtime === "bun" ? process.execPath : node };
  expect((await run(`quick-${runtime}`, quick, more)).lines).toEqual(["1"]);
});

test("a transport is chosen by the definition, and only with tools; nobody else sets the variable", async () => {
  const script = home.script("transport.py", "pass");
  const start = async (...flags: string[]): Promise<string> =>
    (await home.cli("start", script, "--name", "refused", "--cwd", folderOf(home), ...flags)).stderr;
  expect(await start("--policy", "strict", "--transport", "stdio")).toContain("no effect on a worker without tools");
  expect(await start("--transport", "pigeon")).toContain("shm, stdio, http");
  const policy = join(folderOf(home), "sets.json");
  writeFileSync(policy, '{"version":1,"extends":"strict","env":{"set":{"IPCCTL_TRANSPORT":"shm"}}}');
  for (const flags of [
    ["--policy", "strict", "--env", "IPCCTL_TRANSPORT=stdio"],
    ["--policy", policy],
  ])
    expect(await start("--allow-tools", "echo.*", ...flags)).toContain("IPCCTL_TRANSPORT is set by ipcctl");
});

test("stdioCalls: as many are carried out at once, and the answers of those are all that is held", async () => {
  const most = limit("stdioCalls"); // STDIO_CALLS_MAX
  const before = slow.effects("gate_once");
  await begin(
    "many",
    `${ASK}
for n in range(${most + 1}): tell('{"id":"%d","method":"slow.gate_once"}\\n' % n)
say(len({answer()["id"] for _ in range(${most + 1})}))
content = "x" * 131_000
id = ask("file", "files.write", {"name": "large", "content": content})["result"]["file"]["id"]
for n in range(500): tell('{"id":"%d","method":"files.read","params":{"id":"%s","length":131072}}\\n' % (n, id))
tell("asked\\n")
await_file("many")
say(sum(answer()["result"]["content"] == content for _ in range(500)))
`,
  );
  await waitUntil(() => slow.effects("gate_once") === before + most, "as many have begun");
  expect(await home.lines("many")).toEqual([]);
  expect(slow.effects("gate_once")).toBe(before + most);
  slow.open("gate_once");
  const lines = (): Promise<string[]> => home.lines("many");
  await waitUntil(async () => (await lines()).length === 2, "the rest has been asked for");
  expect(slow.effects("gate_once")).toBe(before + most + 1);
  const [helper] = await helpersOf("many");
  await waitUntil(() => records("many").length > most + 64, "it does not read its answers");
  const resident = Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${helper}/status`, "utf8"))![1]);
  expect(resident).toBeLessThan(60_000);
  writeFileSync(join(folderOf(home), "many"), "");
  await hasEnded("many");
  expect(await lines()).toEqual([String(most + 1), "asked", "500"]);
}, 120_000);
