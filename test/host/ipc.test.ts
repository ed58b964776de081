/** The command `ipc`, by which a shell in a worker asks the host. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { HOST_CODES, HOST_EXITS } from "../../contract/host.ts";
import { limit } from "../../src/base/limits.ts";
import { IPC_COMMAND } from "../../src/base/install.ts";
import { waitUntil } from "../home.ts";
import { openSlowHome, startShell, type SlowHome } from "./slow-plugin.ts";

const ROUTER = "host-router";
let scene: SlowHome;
let { home, ipc, folder, slow } = {} as SlowHome;

beforeAll(async () => {
  scene = await openSlowHome();
  ({ home, ipc, folder, slow } = scene);
});
afterAll(() => scene[Symbol.asyncDispose]());

type Told = { readonly output: string[]; readonly errors: Record<string, unknown>[]; readonly raw: string[] };

/** What a shell script in a worker prints until its end. */
async function run(name: string, text: string, interpreter = "/bin/sh", more: object = {}): Promise<Told> {
  await begin(name, text, interpreter, more);
  await waitUntil(async () => (await ipc.status(name)).state === "Stopped", `${name} has ended`);
  const raw = await home.errorLines(name);
  const errors = raw
    .filter((line) => line.startsWith("{"))
    .map((line) => (JSON.parse(line) as { error: Record<string, unknown> }).error);
  return { output: await home.lines(name), errors, raw };
}

const begin = (name: string, text: string, interpreter = "/bin/sh", more: object = {}): Promise<void> =>
  startShell(scene, name, text, {
    interpreter,
    policy: { limits: { openFiles: 256 }, host: { tools: ["echo.*", "files.*", "slow.*"] }, ...more },
    more: { approval_timeout: "100ms" },
  });

test("a shell asks as often as it likes: by argument, from stdin, in pipes and side by side", async () => {
  const { output, raw } = await run(
    "shell",
    `ipc call echo.echo '{"value":[1,{"a":"ä"}]}'; echo $?
echo '{"value": 2}' | ipc call echo.echo -
ipc tools | cut -c 1-10
ipc call files.list
for n in 1 2 3 4 5 6 7 8; do ipc call echo.echo "{\\"value\\":$n}" & done; wait
`,
  );
  expect(raw).toEqual([]);
  expect(output.slice(0, 4)).toEqual(['{"value":[1,{"a":"ä"}]}', "0", '{"value":2}', '{"tools":[']);
  expect(JSON.parse(output[4]!)).toMatchObject({ files: [] });
  expect(output.slice(5).toSorted()).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((value) => `{"value":${value}}`));
});

test("a shell has the texts of plugins as files and as JSON", async () => {
  const { output } = await run("skilled", `ipc skills; echo $?; cat "$IPCCTL_SKILLS/echo.md" | head -1`);
  const { skills, next } = JSON.parse(output[0]!) as { skills: Record<string, string>; next: null };
  expect([next, output[1], skills.echo!.split("\n")[0]]).toEqual([null, "0", output[2]!]);
});

test("errors are JSON on stderr, and their exit statuses are those of the table", async () => {
  const { output, errors } = await run(
    "refused",
    `ipc call no.such; echo $?
ipc call echo.echo '{"other":1}'; echo $?
ipc call memory.list '{}'; echo $?
ipc call echo.echo '[1]'; echo $?
ipc call echo.echo '{"value":1},"topic":{}'; echo $?
ipc call echo.echo '{"value":'; echo $?
for tool in refuse crash hang danger; do ipc call slow.$tool; echo $?; done
`,
  );
  expect(output).toEqual(["4", "2", "5", "1", "1", "1", "1", "1", "124", "124"]);
  const codes = [
    ...["UNKNOWN_TOOL", "VALIDATION_FAILED", "UNAUTHORIZED", "MALFORMED", "MALFORMED", "MALFORMED"],
    ...["EMPTY", "PLUGIN_ERROR", "PLUGIN_TIMEOUT", "CONFIRMATION_TIMEOUT"],
  ];
  expect(errors.map(({ code }) => code)).toEqual(codes);
  expect(errors[1]).toMatchObject({ stage: "payload", field: "value", retriable: false });
});

test("hostMessageBytes: a request of as many bytes is sent, and not one more", async () => {
  // HOST_MESSAGE_BYTES_MAX
  const most = limit("hostMessageBytes");
  const empty = `{"topic":"tool.invoke.echo.echo","correlation":"ipc-${"0".repeat(16)}","arguments":{"value":""}}`;
  const filled = most - empty.length;
  const { output, errors } = await run(
    "long",
    `send() { { printf '{"value":"'; head -c "$1" /dev/zero | tr '\\0' x; printf '"}'; } | ipc call echo.echo - | wc -c; }
send ${filled}
send ${filled + 1}
`,
  );
  expect(output).toEqual([String(filled + '{"value":""}\n'.length), "0"]);
  expect(errors).toEqual([expect.objectContaining({ code: "TOO_LARGE", retriable: false })]);
});

test("one that is killed, or gives up, costs the next one nothing", async () => {
  await begin(
    "killed",
    `await_file() { while ! [ -e "$1" ]; do sleep 0.01; done; }
ipc call echo.echo '{"value":0}'
await_file stopped
ipc --deadline 0.3 call echo.echo '{"value":1}'; echo $?
ipc call echo.echo '{"value":2}' & child=$!
ipc --deadline 0.3 call echo.echo '{"value":3}'; echo $?
kill -9 $child; wait $child; echo $?
await_file continued
ipc call echo.echo '{"value":4}'
`,
  );
  const lines = (): Promise<string[]> => home.lines("killed");
  await waitUntil(async () => (await lines()).length === 1, "the first one is answered");
  const { pid } = await ipc.status(ROUTER);
  process.kill(pid!, "SIGSTOP");
  try {
    writeFileSync(join(folder, "stopped"), "");
    await waitUntil(async () => (await lines()).length === 4, "they have given up");
  } finally {
    process.kill(pid!, "SIGCONT");
  }
  writeFileSync(join(folder, "continued"), "");
  await waitUntil(async () => (await lines()).length === 5, "the last one is answered");
  expect(await lines()).toEqual(['{"value":0}', "1", "1", "137", '{"value":4}']);
  for (const line of await home.errorLines("killed"))
    if (line.startsWith("{")) expect(line).toMatch(/"code":"(PLUGIN_UNAVAILABLE|UNKNOWN_OUTCOME)"/); // if it was sent
});

test("a command waits for the next router, which begins nothing twice; one that ends cancels its call", async () => {
  await begin(
    "waiting",
    `ipc call slow.refuse 2>/dev/null # the plugin runs
ipc --deadline 0.3 call slow.gate; echo $?
ipc call slow.gate
ipc call slow.gate_once; echo $?
`,
  );
  const killRouter = async (): Promise<void> => process.kill((await ipc.status(ROUTER)).pid!, "SIGKILL") as never;
  await waitUntil(() => slow.effects("aborted gate") === 1, "what was given up is aborted");
  await waitUntil(() => slow.effects("gate") === 2, "the next call was begun");
  await killRouter();
  await waitUntil(() => slow.effects("gate") === 3, "it is repeated to the next router");
  slow.open("gate");
  await waitUntil(() => slow.effects("gate_once") === 1, "the last call was begun");
  await killRouter();
  await waitUntil(async () => (await ipc.status("waiting")).state === "Stopped", "it has ended");
  expect(await home.lines("waiting")).toEqual(["1", '{"done":"gate"}', "1"]);
  const errors = (await home.errorLines("waiting")).map((line) => (JSON.parse(line) as { error: object }).error);
  expect(errors).toEqual(Array(2).fill(expect.objectContaining({ code: "UNKNOWN_OUTCOME", retriable: false })));
  expect(slow.effects("gate_once")).toBe(1);
}, 60_000);

test("where sockets can be reached by their paths, too", async () => {
  const { output } = await run(
    "paths",
    "for n in 1 2 3 4 5 6; do ipc call echo.echo '{\"value\":1}'; done",
    "/bin/sh",
    {
      isolation: { want: [] },
      network: { mode: "none", unix: "any" },
      process: { exec: true, fork: true, uid: "keep" },
    },
  );
  expect(output).toEqual(Array(6).fill('{"value":1}'));
});

test("what a worker says to its shim costs nobody else anything, nor its own commands", async () => {
  const says = (words: string, times: number, then = ""): string => `import os, socket, sys
shim = socket.socket(fileno=int(os.environ["IPCCTL_PLANE_FD"]))
shim.setblocking(True)
try:
    for word in ${words} * ${times}: shim.send(word)
except OSError: pass
${then}
os.set_inheritable(shim.detach(), True)
os.execvp("ipc", ["ipc", "--deadline", "20", "call", "echo.echo", '{"value":1}'])
`;
  const [storm, coming, junk] = await Promise.all([
    run("storm", says('[b"a"]', 100_000), "python3"),
    run("coming", says('[b"a", b"c"]', 20_000), "python3"),
    // Until its shim has closed.
    run("junk", says('[b"a", b"x"]', 1, "while shim.recv(64): pass"), "python3"),
  ]);
  expect([storm.output, coming.output]).toEqual([['{"value":1}'], ['{"value":1}']]);
  expect([junk.output, junk.raw]).toEqual([['{"value":1}'], []]);
  expect((await run("after", `ipc call echo.echo '{"value":2}'`)).output).toEqual(['{"value":2}']);
}, 120_000);

test("who has no tools, or no shim, is told at once", () => {
  const ask = (env: Record<string, string>): [number, unknown] => {
    const { exitCode, stderr } = Bun.spawnSync([IPC_COMMAND, "tools"], { env });
    return [exitCode, (JSON.parse(stderr.toString()) as { error: unknown }).error];
  };
  const told = (text: string): object => ({
    ...{ code: "UNAUTHORIZED", message: expect.stringContaining(text) as string, retriable: false },
  });
  expect(ask({})).toEqual([5, told("not given any tools")]);
  const shm = { IPCCTL_TRANSPORT: "shm", IPCCTL_PLANE: join(folder, "plane") };
  expect(ask(shm)).toEqual([5, told("cannot be reached")]);
  expect(ask({ ...shm, IPCCTL_PLANE: "plane" })).toEqual([5, told("cannot be reached")]);
  expect(ask({ ...shm, IPCCTL_TRANSPORT: "stdio" })).toEqual([5, told("--transport stdio")]);
});

test.each([
  [[]],
  [["call"]],
  [["tools", "x"]],
  [["skills", "x"]],
  [["call", 'a"b']],
  [["call", "a.b", "{}", "x"]],
  [["--deadline", "0", "tools"]],
  [["-x"]],
])("%j is not understood", (words) => {
  const { exitCode, stderr } = Bun.spawnSync([IPC_COMMAND, ...words], { env: {} });
  expect([exitCode, stderr.toString()]).toEqual([2, expect.stringContaining("usage: ipc")]);
});

test("each code has an exit status of the table, or 1", () => {
  for (const [code, status] of Object.entries(HOST_EXITS)) {
    expect(Object.keys(HOST_CODES)).toContain(code);
    expect([2, 4, 5, 124, 130]).toContain(status);
  }
});
