/**
 * The same cases whoever calls and whoever serves, over each transport: test/calls/cases.json, run by runner.ts and by
 * peer.py. What a side cannot do stands in SKIPS, and nowhere else.
 */
import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Duplex } from "node:stream";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { frames, lines } from "../../src/calls/byte-transport.ts";
import { CallClient } from "../../src/calls/client.ts";
import type { Lent } from "../../src/calls/session.ts";
import { within } from "../deadline.ts";
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

for (const transport of Object.keys(TRANSPORTS) as Transport[])
  for (const server of SIDE_NAMES) {
    describe(`TypeScript calls ${server} over ${transport}`, () => {
      let child: ReturnType<typeof serve>;
      let client: CallClient;
      let runner: Runner;

      beforeAll(async () => {
        const bound = new Map<string, Lent>();
        child = serve(server, transport);
        client = new CallClient(TRANSPORTS[transport](child.stdout, child.stdin), { name: server, bound });
        await within(30_000, "the server's first message", client.hello);
        runner = new Runner(client, bound, transport === "lines");
      });

      afterAll(() => {
        client[Symbol.dispose]();
        child.kill();
      });

      for (const one of CASES) {
        const skip = skipOf(server, one);
        if (skip === undefined) test(one.name, () => runner.run(one));
        else console.log(`left out: ${one.name}: ${skip}`);
      }

      test("who is killed is gone for all that is under way", async () => {
        const stream = await client.call("count_for_ever", []);
        await stream.next();
        const waiting = client.call("sleep_later", [60]);
        const reading = (async () => {
          for await (const _ of stream);
        })();
        child.kill("SIGKILL");
        for (const one of await Promise.allSettled([waiting, reading]))
          expect(one).toMatchObject({ status: "rejected", reason: { code: "CONNECTION_LOST" } });
        const [later] = await Promise.allSettled([client.call("add", [1, 2])]);
        expect(later).toMatchObject({ status: "rejected", reason: { code: "CONNECTION_LOST" } });
      });
    });

    for (const caller of SIDE_NAMES.filter((side) => side !== "TypeScript"))
      test(`${caller} calls ${server} over ${transport}`, async () => {
        const skipped = Object.keys(SKIPS[server] ?? {});
        const serving = serve(server, transport);
        const { command, env } = SIDES[caller];
        const [program, ...args] = [...command, "call", transport, "3", ...skipped];
        const stdio: StdioOptions = ["ignore", "pipe", "inherit", "pipe"];
        const calling: ChildProcess = spawn(program, args, { stdio, env: { ...process.env, ...env } });
        const socket = calling.stdio[3] as Duplex;
        socket.pipe(serving.stdin);
        serving.stdout.pipe(socket);
        const told: { begins?: string; name?: string; error?: string | null }[] = [];
        const read = async (): Promise<boolean> => {
          for await (const line of createInterface(calling.stdout!)) {
            if (line === '"done"') return true;
            told.push(JSON.parse(line));
          }
          return false;
        };
        try {
          const isDone = await within(60_000, `all cases, after ${JSON.stringify(told.at(-1))}`, read());
          expect(told.filter(({ error }) => typeof error === "string")).toEqual([]);
          expect(isDone).toBe(true);
          expect(told.filter(({ name }) => name !== undefined)).toHaveLength(
            CASES.filter((one) => skipOf(server, one) === undefined).length,
          );
        } finally {
          calling.kill("SIGKILL");
          serving.kill("SIGKILL");
        }
      });
  }
