/** Limits of a daemon that runs: at their number, and one past it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { limit } from "../../src/base/limits.ts";
import { Connection } from "../../src/sdk/connection.ts";
import { Home, waitUntil } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

/** What it is refused with. */
const refusalOf = (asked: Promise<unknown>): Promise<string> =>
  asked.then(
    () => "it was not refused",
    (error: Error) => error.message,
  );

test("connections: as many as the limit are served, one more is told why not, and served when one has gone", async () => {
  await home.daemonPid();
  const open: Connection[] = [];
  const greet = async (): Promise<Connection> => {
    const connection = await Connection.open(home.paths.socket);
    open.push(connection);
    await connection.request("List");
    return connection;
  };
  try {
    await waitUntil(async () => {
      const connection = await greet();
      const { connections } = await connection.daemonStatus();
      if (connections === 1) return true;
      open.pop()!.close(); // those before are still ending
      return false;
    }, "nobody else is connected");
    while (open.length < limit("connections")) await greet();
    expect(await refusalOf(greet())).toContain(`${limit("connections")} connections are open already`);
    open.shift()!.close();
    await waitUntil(() => greet().then(Boolean, () => false), "there is room again");
  } finally {
    for (const connection of open) connection.close();
  }
});

test("frameBytes: what is too large to be sent is refused, and the next one has its own answer", async () => {
  await home.daemonPid();
  using connection = await Connection.open(home.paths.socket);
  expect(await refusalOf(connection.publish("a.b", "x".repeat(limit("frameBytes"))))).toContain("does not fit a frame");
  expect(await connection.daemonStatus()).toMatchObject({ connections: expect.any(Number) });
});

test("logLines: as many as the limit may be asked for in one answer", async () => {
  await home.start("brief", home.script("brief.py", "print('brief')\n"), { restart_policy: "no" });
  await waitUntil(async () => (await home.lines("brief", limit("logLines"))).length === 1, "it has spoken");
  expect(await refusalOf(home.lines("brief", limit("logLines") + 1))).toContain(
    `at most ${limit("logLines")} in one answer`,
  );
});

test("lineChars: a line as long as the limit comes whole, a longer one is cut there, and is whole in the file", async () => {
  const most = limit("lineChars");
  const script = home.script("long.py", `print("a" * ${most})\nprint("b" * ${most + 1})\nprint("end")\n`);
  await home.start("long", script, { restart_policy: "no" });
  await waitUntil(async () => (await home.lines("long")).at(-1) === "end", "it has spoken");
  expect((await home.lines("long")).map((line) => `${line[0]}${line.length}`)).toEqual([`a${most}`, `b${most}`, "e3"]);
  const { stdout } = await home.cli("logs", "long");
  expect(stdout.split("\n").map((line) => line.length)).toEqual([most, most + 1, 3, 0]);
});

test("logAnswerBytes: as much as the limit is answered, half for each stream, and no line more", async () => {
  const lines = 32;
  const chars = limit("logAnswerBytes") / 2 / lines / 2 - 4; // a line counts twice its characters and 8
  for (const [name, length, answered] of [
    ["fits", chars, lines],
    ["over", chars + 1, lines - 1],
  ] as const) {
    const code = `for count in range(${lines + 1}): print("x" * ${length})\nprint("end", file=__import__("sys").stderr)\n`;
    await home.start(name, home.script(`${name}.py`, code), { restart_policy: "no" });
    await waitUntil(async () => (await home.status(name)).state === "Stopped", "it has ended");
    expect((await home.lines(name, lines + 1)).filter((line) => line.length === length)).toHaveLength(answered);
  }
});
