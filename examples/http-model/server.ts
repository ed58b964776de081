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

/** What scikit-learn raises for input that it cannot take; anything else is a fault of ours. */
const INPUT_ERRORS = new Set(["ValueError", "TypeError"]);

const ipc = await connect();
const model = await ipc.start<Model>("model.py", {
  cwd: import.meta.dir,
  interpreter: process.env.PYTHON ?? "python3",
});

const server = listen(Number(process.argv[2] ?? process.env.PORT ?? 3000), async (rows) => {
  try {
    return await model.call("predict", rows); // by the worker's next run, if this one has just died
  } catch (error) {
    if (error instanceof PythonError) throw new Refusal(INPUT_ERRORS.has(error.type) ? 422 : 500, error.message, error);
    if (error instanceof CodecError) throw new Refusal(422, error.message, error); // nested too deeply, say
    if (error instanceof IpcError) throw new Refusal(503, error.message, error);
    throw error;
  }
});
console.log(`listening on ${server.url.href}`);

const shutDown = async (): Promise<void> => {
  await server.stop(); // requests that are under way are answered first
  ipc[Symbol.dispose](); // the worker runs on, with its model loaded, for the next server
};
process.once("SIGINT", () => void shutDown());
process.once("SIGTERM", () => void shutDown());
