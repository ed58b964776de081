/** A client that goes while its own call waits for another client's function costs the worker nothing. */
import { expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { waitUntil, withDaemon } from "../home.ts";

const worker = (isPure: boolean): string => `
${isPure ? 'import os\nos.environ["IPCCTL_PURE"] = "1"' : ""}
import ipcctl

@ipcctl.expose
def through(): return slow()

@ipcctl.expose
def total(items): return sum(items)

@ipcctl.expose
def add(a, b): return a + b

ipcctl.serve()
`;

for (const isPure of [false, true])
  for (const isNested of [false, true])
    test(`it goes ${isNested ? "while another call is below it" : "alone"}, ${isPure ? "pure" : "C"}`, async () => {
      await withDaemon(async (home) => {
        using ipc = new Ipcctl(await home.connect(), () => home.connect());
        const script = home.script("leaving.py", worker(isPure));
        using stays = await ipc.start(script, { cwd: home.dir, restart_policy: "no" });
        const goes = await ipc.worker("leaving");
        const { promise: isAsked, resolve: ask } = Promise.withResolvers<void>();
        const { promise: answer, resolve: give } = Promise.withResolvers<number>();
        stays.bind("slow", () => (ask(), answer));
        await stays.call("add", 1, 1); // it is lent by then
        const { promise: hasBegun, resolve: begin } = Promise.withResolvers<void>();
        const below = isNested
          ? stays.call(
              "total",
              (async function* () {
                yield 1;
                begin();
                yield await answer;
              })(),
            )
          : undefined;
        if (isNested) await hasBegun;
        const call = goes.call("through").catch((error: Error) => error);
        await isAsked;
        goes[Symbol.dispose]();
        await call;
        await waitUntil(async () => (await home.status("leaving")).calls!.channels === 1, "the channel is closed");
        give(41);
        expect(await stays.call("add", 1, 1)).toBe(2);
        if (below) expect(await below).toBe(42);
        expect((await home.status("leaving")).state).toBe("Running");
      });
    });
