/**
 * A program that was written for one version: it imports the package from the folder of an installation and goes
 * through what a worker can do.
 *   bun client.ts INSTALLATION
 * The workers are `served` and `piped` of upgrade.test.ts. What came of each is printed as JSON.
 */
import { join } from "node:path";

type Package = typeof import("ipcctl");
const [installation = ""] = process.argv.slice(2);
const { connect, IpcError } = (await import(join(installation, "src/index.ts"))) as Package;
/** A call that is not over after this is interrupted. */
const SHORT_MS = 300;

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    (value) => `it gave ${String(value)}`,
    (error: unknown) =>
      error instanceof IpcError ? error.code : `${(error as Error).name}: ${(error as Error).message}`,
  );

const ipc = await connect({ autostart: false });
const py = await ipc.worker("served");

const items: number[] = [];
for await (const item of py.stream("rows", 200)) items.push(item as number);
py.bind("double", (value: number) => 2 * value);
const pipe = await (await ipc.worker("piped")).pipe("echo");
await pipe.send(Buffer.from("through a pipe"));
const echoed = await pipe.receive();
pipe.close();
const late = await codeOf(py.callWith("nap", [600], { timeout: SHORT_MS }));
const aborted = new AbortController();
const napping = codeOf(py.callWith("nap", [600], { signal: aborted.signal }));
const queued = py.call("add", 20, 22);
setTimeout(() => aborted.abort(), SHORT_MS);

console.log(
  JSON.stringify({
    sum: await queued,
    aborted: (await napping) !== "it gave slept",
    late,
    interrupted: await py.call("interruptions"),
    kept: await py.call("kept"),
    large: (await py.call<Uint8Array>("echo", new Uint8Array(3_000_000).fill(7))).length,
    items: items.length,
    last: items.at(-1),
    lent: await py.call("lent", 21),
    piped: echoed === undefined ? null : Buffer.from(echoed).toString(),
    failed: await codeOf(py.call("boom")),
    evaluated: await py.eval("6 * 7"),
  }),
);
await ipc[Symbol.asyncDispose]();
