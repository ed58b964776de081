/**
 * An HTTP server in TypeScript whose answers come from a scikit-learn model in a Python worker:
 *   bun examples/http-model/server.ts [PORT]
 *   curl localhost:3000/predict -d '{"rows": [[5.1, 3.5, 1.4, 0.2]]}'
 * PORT may also come from the environment; 0 takes a free one. PYTHON is the interpreter that has scikit-learn.
 */
import { CodecError, connect, IpcError, PythonError } from "ipcctl";
import { listen, Refusal, type Prediction } from "./app.ts";

/** What model.py exposes; `ipcctl types model.py` writes the outline of it. */
type Model = { predict(rows: number[][]): Prediction[] };

/** How long a request waits for the next run of a worker that has just died. */
const REOPEN_MS = 5000;
/** What scikit-learn raises for input that it cannot take; anything else is a fault of ours. */
const INPUT_ERRORS = new Set(["ValueError", "TypeError"]);

let ipc = await connect();
let model = await ipc.start<Model>("model.py", {
  cwd: import.meta.dir,
  interpreter: process.env.PYTHON ?? "python3",
});
let opening: Promise<void> | undefined;

const server = listen(Number(process.argv[2] ?? process.env.PORT ?? 3000), async (rows) => {
  try {
    if (!model.isOpen) await (opening ??= reopen());
    return await model.call("predict", rows);
  } catch (error) {
    if (error instanceof PythonError) throw new Refusal(INPUT_ERRORS.has(error.type) ? 422 : 500, error.message, error);
    if (error instanceof CodecError) throw new Refusal(422, error.message, error); // nested too deeply, say
    if (error instanceof IpcError) throw new Refusal(503, error.message, error);
    throw error;
  }
});
console.log(`listening on ${server.url.href}`);

/** The daemon restarts the worker; the channel to the run before went with it. The daemon may be another one by now, too. */
async function reopen(): Promise<void> {
  try {
    ipc[Symbol.dispose]();
    ipc = await connect();
    model = await ipc.worker<Model>(model.name, REOPEN_MS);
  } finally {
    opening = undefined;
  }
}

const shutDown = async (): Promise<void> => {
  await server.stop(); // requests that are under way are answered first
  ipc[Symbol.dispose](); // the worker runs on, with its model loaded, for the next server
};
process.once("SIGINT", () => void shutDown());
process.once("SIGTERM", () => void shutDown());
