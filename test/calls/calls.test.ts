/**
 * The same cases whoever calls and whoever serves, over each transport: test/calls/cases.json, run by runner.ts and by
 * peer.py. What a side cannot do stands in SKIPS, and nowhere else.
 */
import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Duplex } from "node:stream";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { ROOT } from "../../src/base/install.ts";
import { frames, lines } from "../../src/calls/byte-transport.ts";
import { ChannelTransport } from "../../src/calls/channel-transport.ts";
import { CallClient } from "../../src/calls/client.ts";
import type { Lent } from "../../src/calls/session.ts";
import { Channel, type ChannelListener } from "../../src/plane/channel.ts";
import { shared } from "../../src/plane/sharing.ts";
import { closeFd, createPair, SEQPACKET } from "../../src/plane/system.ts";
import { within } from "../deadline.ts";
import { Home } from "../home.ts";
import { CASES, Runner, type Case } from "./runner.ts";

const TRANSPORTS = { frames, lines } as const;
type Transport = keyof typeof TRANSPORTS;

const PYTHON = ["python3", join(import.meta.dir, "peer.py")] as const;
const BUN = [process.execPath, "--no-env-file", join(import.meta.dir, "peer.ts")] as const;
const SIDES = {
  TypeScript: { command: BUN, env: {} },
  "Python in C": { command: PYTHON, env: { IPCCTL_PURE: "0" } },
  "pure Python": { command: PYTHON, env: { IPCCTL_PURE: "1" } },
} as const;
type Side = keyof typeof SIDES;
const SIDE_NAMES = Object.keys(SIDES) as Side[];

/** What a server cannot do: cases that have this key, and why. */
const SKIPS: Readonly<Partial<Record<Side, Readonly<Record<string, string>>>>> = {
  TypeScript: { eval: "a server in TypeScript does not evaluate code" },
};

const skipOf = (server: Side, one: Case): string | undefined =>
  Object.entries(SKIPS[server] ?? {}).find(([key]) => key in one)?.[1];

/** A process that serves on its stdin and stdout. */
function serve(server: Side, transport: Transport): ChildProcess & { stdin: Duplex; stdout: Duplex } {
  const { command, env } = SIDES[server];
  const [program, ...args] = [...command, "serve", transport];
  const stdio: StdioOptions = ["pipe", "pipe", "inherit"];
  return spawn(program, args, { stdio, env: { ...process.env, ...env } }) as ReturnType<typeof serve>;
}

/** All cases, in a process of Python that calls. */
async function runInPython(caller: Side, server: Side, calling: ChildProcess): Promise<void> {
  const told: { begins?: string; name?: string; error?: string | null }[] = [];
  const read = async (): Promise<boolean> => {
    for await (const line of createInterface(calling.stdout!)) {
      if (line === '"done"') return true;
      told.push(JSON.parse(line));
    }
    return false;
  };
  const isDone = await within(60_000, `all cases of ${caller} calling ${server}`, read()).catch((error: Error) => {
    error.message += `\nafter ${JSON.stringify(told.at(-1))}`;
    throw error;
  });
  expect(told.filter(({ error }) => typeof error === "string")).toEqual([]);
  expect(isDone).toBe(true);
  const done = told.filter(({ name }) => name !== undefined);
  expect(done).toHaveLength(CASES.filter((one) => skipOf(server, one) === undefined).length);
}

function beginInPython(
  caller: Side,
  server: Side,
  words: readonly string[],
  more: Record<string, string>,
): ChildProcess {
  const { command, env } = SIDES[caller];
  const [program, ...args] = [...command, "call", ...words, ...Object.keys(SKIPS[server] ?? {})];
  const stdio: StdioOptions = ["ignore", "pipe", "inherit", "pipe"];
  return spawn(program, args, { stdio, env: { ...process.env, ...env, ...more } });
}

/** All cases, called from here. */
function testFromHere(server: Side, open: () => Promise<Runner>): void {
  let runner: Runner;
  beforeAll(async () => {
    runner = await open();
  });
  for (const one of CASES) {
    const skip = skipOf(server, one);
    if (skip === undefined) test(one.name, () => runner.run(one));
    else console.log(`left out: ${one.name}: ${skip}`);
  }
}

async function requireLost(client: CallClient, kill: () => void): Promise<void> {
  const stream = await client.call<AsyncIterableIterator<number>>("count_for_ever", []);
  await stream.next();
  const waiting = client.call("sleep_later", [60]);
  const reading = (async () => {
    for await (const _ of stream);
  })();
  kill();
  for (const one of await Promise.allSettled([waiting, reading]))
    expect(one).toMatchObject({ status: "rejected", reason: { code: "CONNECTION_LOST" } });
  const [later] = await Promise.allSettled([client.call("add", [1, 2])]);
  expect(later).toMatchObject({ status: "rejected", reason: { code: "CONNECTION_LOST" } });
}

for (const transport of Object.keys(TRANSPORTS) as Transport[])
  for (const server of SIDE_NAMES) {
    describe(`TypeScript calls ${server} over ${transport}`, () => {
      let child: ReturnType<typeof serve>;
      let client: CallClient;

      testFromHere(server, async () => {
        const bound = new Map<string, Lent>();
        child = serve(server, transport);
        client = new CallClient(TRANSPORTS[transport](child.stdout, child.stdin), { name: server, bound });
        await within(30_000, "the server's first message", client.hello);
        return new Runner(client, bound, transport === "lines");
      });
      afterAll(() => {
        client[Symbol.dispose]();
        child.kill();
      });
      test("who is killed is gone for all that is under way", () => requireLost(client, () => child.kill("SIGKILL")));
    });

    for (const caller of SIDE_NAMES.filter((side) => side !== "TypeScript"))
      test(`${caller} calls ${server} over ${transport}`, async () => {
        const serving = serve(server, transport);
        const calling = beginInPython(caller, server, [transport, "3"], {});
        const socket = calling.stdio[3] as Duplex;
        socket.pipe(serving.stdin);
        serving.stdout.pipe(socket);
        try {
          await runInPython(caller, server, calling);
        } finally {
          calling.kill("SIGKILL");
          serving.kill("SIGKILL");
        }
      });
  }

for (const server of SIDE_NAMES)
  describe(`over a channel to ${server}`, () => {
    let home: Home;
    let client: CallClient;
    const [flags, script, kind] =
      server === "TypeScript"
        ? [["--interpreter", process.execPath], BUN[2], "shim"]
        : [["--env", `IPCCTL_PURE=${SIDES[server].env.IPCCTL_PURE}`], PYTHON[1], "channel"];
    const start = async (name: string): Promise<void> => {
      const words = ["start", "--name", name, ...flags, script, "serve", kind];
      expect(await home.cli(...words)).toMatchObject({ status: 0 });
    };

    beforeAll(async () => {
      home = new Home();
      await start("served");
    });
    afterAll(() => home[Symbol.asyncDispose]());

    testFromHere(server, async () => {
      const bound = new Map<string, Lent>();
      const shim = join((await home.status("served")).log_dir, "..", "sock");
      const open = (listener: ChannelListener): Promise<Channel> => Channel.open(shim, "served", 30_000, listener);
      client = new CallClient(await ChannelTransport.open(open), { name: "served", bound });
      await client.hello;
      return new Runner(client, bound, false);
    });
    test("who is killed is gone for all that is under way", async () => {
      const { pid } = await home.status("served");
      await requireLost(client, () => process.kill(pid!, "SIGKILL"));
    });

    for (const caller of SIDE_NAMES.filter((side) => side !== "TypeScript"))
      test(`${caller} calls`, async () => {
        const name = `of-${caller === "pure Python" ? "pure" : "c"}`;
        await start(name);
        const calling = beginInPython(caller, server, ["channel", name], home.env);
        try {
          await runInPython(caller, server, calling);
        } finally {
          calling.kill("SIGKILL");
        }
      });
  });

describe("over a channel that is offered to TypeScript", () => {
  const [socket, theirs] = createPair(SEQPACKET);
  let child: ChildProcess;
  let client: CallClient;

  testFromHere("TypeScript", async () => {
    const [program, ...args] = [...BUN, "serve", "channel"];
    child = spawn(program, args, { stdio: ["ignore", "inherit", "inherit", theirs] });
    closeFd(theirs);
    const bound = new Map<string, Lent>();
    client = new CallClient(await ChannelTransport.open((listener) => Channel.offer(socket, listener)), {
      name: "served",
      bound,
    });
    await within(30_000, "the server's first message", client.hello);
    return new Runner(client, bound, false);
  });
  afterAll(() => {
    client[Symbol.dispose]();
    child.kill();
    closeFd(socket);
  });
  test("a blocking call is answered too", () => {
    expect(client.callSync("add", [2, 3])).toBe(5);
  });
  test("what is in shared memory is handed over", async () => {
    const values = shared(Float64Array, 4);
    values.set([1, 2, 3, 4]);
    const back = await client.call<Float64Array>("echo", [values]);
    values[0] = 9;
    expect([...back]).toEqual([9, 2, 3, 4]); // the same memory, there and back
  });
  test("who is killed is gone for all that is under way", () => requireLost(client, () => child.kill("SIGKILL")));
});

test("each side shows the messages of a call, in its own words and with the same clock", async () => {
  const [program, ...args] = [...PYTHON, "serve", "frames"];
  const env = { ...process.env, IPCCTL_TRACE: "1" };
  const shown: string[] = [];
  const script = `
    const { frames } = await import(${JSON.stringify(join(ROOT, "src/calls/byte-transport.ts"))});
    const { CallClient } = await import(${JSON.stringify(join(ROOT, "src/calls/client.ts"))});
    const client = new CallClient(frames(process.stdin, process.stdout), { name: "served" });
    await client.hello;
    await client.call("add", [2, 3]);
    process.exit(0);`;
  const serving = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"], env });
  const calling = spawn(process.execPath, ["-e", script], { stdio: ["pipe", "pipe", "pipe"], env });
  serving.stdout.pipe(calling.stdin);
  calling.stdout.pipe(serving.stdin);
  const read = async (child: ChildProcess): Promise<void> => {
    for await (const line of createInterface(child.stderr!)) shown.push(line);
  };
  try {
    await within(30_000, "both have shown what they do", Promise.all([read(serving), read(calling)]));
  } finally {
    serving.kill("SIGKILL");
    calling.kill("SIGKILL");
  }
  const told = shown.map((line) => line.match(/^ipcctl trace ([\d.]+) (\w+)\[\d+\] (.*)$/)!);
  const times = told.map(([, time]) => Number(time));
  expect(Math.max(...times) - Math.min(...times)).toBeLessThan(60); // seconds of one clock
  const of = (wanted: string): string[] =>
    told
      .filter(([, , side, what]) => side === wanted && / (call|result) /.test(` ${what}`))
      .map(([, , , what]) => what!);
  expect(of("client")).toEqual(["→ call 1 'add' [ 2, 3 ] null", "← result 1 5"]);
  expect(of("server")).toEqual(["← call 1 'add' [2, 3] None", "→ result 1 5"]);
});
