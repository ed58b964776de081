/**
 * A client of test/soak/clients.ts: `bun test/soak/client.ts NAME SEED`. Does what clients do, four things at a time,
 * at random, and gives some of it up at random moments, until its standard input ends. Whatever it did not give up must
 * be answered, and rightly; anything else ends it with 1.
 */
import { Ipcctl, IpcError, PythonError, type PythonWorker } from "ipcctl";
import { resolvePaths } from "../../src/base/paths.ts";
import { connectDaemon } from "../../src/sdk/autostart.ts";
import { within } from "../deadline.ts";
import { pick, randomFrom } from "../seed.ts";
import { sleep } from "../../src/base/patience.ts";

const [name = "", seed = "1"] = process.argv.slice(2);
const random = randomFrom(Number(seed));
const AT_A_TIME = 4;
/** For one thing; that of others goes first. */
const PATIENCE_MS = 30_000;
const GIVEN_UP = "given up";

let isOver = false;
const over = new Promise<void>((resolve) => {
  process.stdin.on("end", () => resolve());
  process.stdin.resume();
}).then(() => (isOver = true));

function same(found: unknown, expected: unknown, what: string): void {
  if (!Bun.deepEquals(found, expected)) throw new Error(`${what}: ${Bun.inspect(found)}, not ${Bun.inspect(expected)}`);
}

/** Does it, and gives it up at a random moment; it may have ended before. */
async function giveUp(work: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(new Error(GIVEN_UP)), random() ** 3 * 50);
  try {
    await work(controller.signal);
  } catch (error) {
    const isOurs = (error as Error).message === GIVEN_UP || (error instanceof IpcError && error.code === "DEADLINE");
    if (!isOurs) throw error;
  } finally {
    clearTimeout(timer);
  }
}

const number = (): number => Math.floor(random() * 1000);

/** Each kind of thing, with a weight. */
const THINGS: readonly [weight: number, what: string, work: (py: PythonWorker) => Promise<void>][] = [
  [
    6,
    "call",
    async (py) => {
      const [a, b] = [number(), number()];
      same(await py.call("add", a, b), a + b, "add");
    },
  ],
  [
    2,
    "keywords",
    async (py) => {
      const a = number();
      same(await py.callWith("add", [], { kwargs: { a, b: 1 } }), a + 1, "add by keyword");
    },
  ],
  [
    2,
    "error",
    async (py) => {
      const error = await py.call("fail", "soaked").catch((error: unknown) => error);
      if (!(error instanceof PythonError) || error.message !== "ValueError: soaked") throw error;
    },
  ],
  [
    2,
    "eval",
    async (py) => {
      const a = number();
      same(await py.eval(`${a} * 2`, { namespace: name }), a * 2, "eval");
    },
  ],
  [
    2,
    "large",
    async (py) => {
      const bytes = new Uint8Array(1 + number() * 500).fill(number());
      same(await py.call<Uint8Array>("echo", bytes), bytes, "echo");
    },
  ],
  [
    3,
    "stream",
    async (py) => {
      const [seen, count] = [[] as number[], number() % 300];
      for await (const item of py.stream("rows", count)) seen.push(item as number);
      same(
        seen,
        Array.from({ length: count }, (_, index) => index),
        "rows",
      );
    },
  ],
  [
    3,
    "stream that is left",
    async (py) => {
      let left = number() % 40;
      for await (const _ of py.stream(pick(random, ["rows", "ticks"]), 1_000_000)) if (left-- === 0) break;
    },
  ],
  [
    2,
    "stream of ours",
    async (py) => {
      const count = 1 + (number() % 200);
      const items = (async function* () {
        for (let index = 0; index < count; index++) yield index;
      })();
      same(await py.call("total", items), (count * (count - 1)) / 2, "total");
    },
  ],
  [
    3,
    "lent function",
    async (py) => {
      const x = number();
      // While the serving thread waits for another thread nothing is served: that one may not call back.
      const [through, back] = pick(random, [
        ["through", "back"],
        ["async_through", "back"],
        ["thread_through", "plain"],
      ] as const);
      same(await py.call(through, `${back}_${name}`, x), x * 2 + 1, through);
    },
  ],
  [2, "async call", async (py) => same(await py.call("nap", random() * 0.02), "rested", "nap")],
  [3, "endless call given up", (py) => giveUp((signal) => py.callWith("forever", [], { signal }))],
  [2, "short call given up", (py) => giveUp((signal) => py.callWith("add", [1, 2], { signal }))],
  [2, "nap given up", (py) => giveUp((signal) => py.callWith("nap", [random() * 0.05], { signal }))],
  [2, "eval given up", (py) => giveUp((signal) => py.eval("while True: pass", { signal, namespace: name }))],
  [
    2,
    "lent function given up",
    (py) =>
      giveUp((signal) => py.callWith(pick(random, ["through", "async_through"]), [`slow_${name}`, 1], { signal })),
  ],
  [
    2,
    "deadline",
    async (py) => {
      const error = await py.callWith("forever", [], { timeout: 1 + random() * 30 }).catch((error: unknown) => error);
      if (!(error instanceof IpcError) || error.code !== "DEADLINE") throw error;
    },
  ],
];
const WEIGHTED = THINGS.flatMap(([weight, what, work]) => Array.from({ length: weight }, () => ({ what, work })));

function lend(py: PythonWorker): void {
  py.bind(`back_${name}`, async (x: number) => (random() < 0.5 ? x * 2 : await py.call<number>("add", x, x)));
  py.bind(`plain_${name}`, (x: number) => x * 2);
  py.bind(`slow_${name}`, async (x: number) => (await sleep(random() * 30), x));
}

async function main(): Promise<void> {
  const paths = resolvePaths(process.env, process.getuid!());
  using ipc = new Ipcctl(await connectDaemon(paths, true), () => connectDaemon(paths, true));
  let py = await ipc.worker("soaked");
  lend(py);
  let done = 0;
  while (!isOver) {
    const things = Array.from({ length: AT_A_TIME }, () => pick(random, WEIGHTED));
    const isClosed = random() < 0.05;
    const working = things.map(({ what, work }) =>
      within(PATIENCE_MS, `${name}: ${what}`, work(py)).catch((error: Error) => {
        if (isClosed && error instanceof IpcError && error.code === "CONNECTION_LOST") return;
        throw new Error(`${what}: ${error.message}`, { cause: error });
      }),
    );
    if (isClosed) {
      await sleep(random() * 20);
      py[Symbol.dispose]();
    }
    await Promise.all(working);
    done += things.length;
    if (!isClosed) continue;
    py = await within(PATIENCE_MS, `${name}: another channel`, ipc.worker("soaked"));
    lend(py);
  }
  await over;
  py[Symbol.dispose]();
  console.log(done);
}

await main().then(
  () => process.exit(0),
  (error: Error) => {
    console.error(error.message);
    console.error(error);
    process.exit(1);
  },
);
