/** What a program of a TypeScript backend does with the SDK, as its compiler sees it: no line of it is `any`. */
import {
  BrokenChannel,
  CodecError,
  connect,
  evaluate,
  type CallOptions,
  type ErrorCode,
  type Ipcctl,
  IpcError,
  NdArray,
  type Pipe,
  PythonError,
  type PythonWorker,
  shared,
  SharedRingBuffer,
  type StartOptions,
  type TypedArray,
} from "ipcctl";
import { type Plugin, ToolError } from "ipcctl/plugin";

/** As `ipcctl types` writes it. */
type Worker = {
  add(a: number, b: number): number;
  mean(values: Float64Array): number;
  rows(count: number): AsyncIterable<number>;
  fail(): never;
};

class Statistics {
  readonly #ipc: Ipcctl;
  readonly #worker: PythonWorker<Worker>;

  private constructor(ipc: Ipcctl, worker: PythonWorker<Worker>) {
    this.#ipc = ipc;
    this.#worker = worker;
  }

  static async open(script: string, options: StartOptions): Promise<Statistics> {
    const ipc = await connect();
    return new Statistics(ipc, await ipc.start<Worker>(script, options));
  }

  async sum(values: readonly number[], options: CallOptions = { timeout: 60_000 }): Promise<number> {
    let total = 0;
    for (const value of values) total = await this.#worker.call("add", total, value);
    return await this.#worker.callWith("add", [total, 0], options);
  }

  async mean(count: number): Promise<number> {
    const values = new Float64Array(count).map((_, index) => index);
    return await this.#worker.call("mean", values);
  }

  async rows(count: number): Promise<number[]> {
    const found: number[] = [];
    for await (const row of this.#worker.stream("rows", count)) found.push(row);
    return found;
  }

  async failure(): Promise<string> {
    try {
      await this.#worker.call("fail");
      return "none";
    } catch (error) {
      if (error instanceof PythonError) return error.message;
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#ipc.stop("statistics");
    this.#ipc[Symbol.dispose]();
  }
}

function describe(error: unknown): ErrorCode | "channel" | "codec" | "unknown" {
  if (error instanceof IpcError) return error.code;
  if (error instanceof BrokenChannel) return "channel";
  return error instanceof CodecError ? "codec" : "unknown";
}

const bytesOf = (values: TypedArray): number => values.byteLength;
export const pipes: Pipe[] = [];
export const handler: Plugin<{ readonly greeting: string }> = ({ config }) => ({
  tools: {
    greet: ({ name }: { readonly name: string }, { signal }) => {
      if (signal.aborted) throw new ToolError("LATE", "nobody waits any more", { retriable: true });
      return `${config.greeting}, ${name}`;
    },
  },
});

const statistics = await Statistics.open("worker.py", { name: "statistics", restart_policy: "no" });
const answers = {
  sum: await statistics.sum([1, 2, 3]),
  mean: await statistics.mean(5),
  rows: await statistics.rows(3),
  failure: await statistics.failure(),
  evaluated: await evaluate("6 * 7"),
  bytes: bytesOf(new Uint8Array(8)),
  known: describe(new IpcError("NOT_FOUND", "none")),
  classes: [typeof shared, typeof NdArray, typeof SharedRingBuffer],
};
await statistics.close();
console.log(JSON.stringify(answers));
