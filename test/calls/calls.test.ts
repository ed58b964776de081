/**
 * The same cases whoever calls and whoever serves, over each transport. What a pair cannot do stands in SKIPS, and
 * nowhere else.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { frames, lines } from "../../src/calls/byte-transport.ts";
import { CallClient } from "../../src/calls/client.ts";
import type { Lent } from "../../src/calls/session.ts";
import type { Transport } from "../../src/calls/transport.ts";
import { CASES, Runner, type Case } from "./runner.ts";

const TRANSPORTS = { frames, lines } as const;
type Kind = keyof typeof TRANSPORTS;

/** What a side cannot do, of each case that has this key, and why. */
const SKIPS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  typescript: { eval: "a server in TypeScript does not evaluate code" },
};

const skipOf = (server: string, one: Case): string | undefined =>
  Object.entries(SKIPS[server] ?? {}).find(([key]) => key in one)?.[1];

/** A process that serves on its stdin and stdout. */
function serve(server: string, kind: Kind): { readonly child: ChildProcess; readonly transport: Transport } {
  const command = { typescript: [process.execPath, "--no-env-file", join(import.meta.dir, "peer.ts"), kind] }[server]!;
  const child = spawn(command[0]!, command.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
  return { child, transport: TRANSPORTS[kind](child.stdout!, child.stdin!) };
}

for (const server of ["typescript"])
  for (const kind of Object.keys(TRANSPORTS) as Kind[])
    describe(`TypeScript calls ${server} over ${kind}`, () => {
      let child: ChildProcess;
      let client: CallClient;
      let runner: Runner;

      beforeAll(async () => {
        const bound = new Map<string, Lent>();
        const begun = serve(server, kind);
        child = begun.child;
        client = new CallClient(begun.transport, { name: server, bound });
        await client.hello;
        runner = new Runner(client, bound, kind === "lines");
      });

      afterAll(() => {
        client[Symbol.dispose]();
        child.kill();
      });

      for (const one of CASES) {
        const skip = skipOf(server, one);
        if (skip === undefined) test(one.name, () => runner.run(one));
        else test.skip(`${one.name}: ${skip}`, () => undefined);
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
        await expect(client.call("add", [1, 2])).rejects.toMatchObject({ code: "CONNECTION_LOST" });
      });
    });
