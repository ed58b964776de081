/** The package: what a TypeScript program imports. */
export { IpcError, type ErrorCode } from "./base/errors.ts";
export { ArrowTable, CodecError, NdArray, type TypedArray } from "./plane/codec-error.ts";
export { PythonError } from "./plane/python-error.ts";
export { BrokenChannel, SharedRingBuffer } from "./plane/ring.ts";
export {
  closeDefaultRuntime,
  defaultRuntime,
  evaluate,
  evaluate as eval,
  execute,
  execute as exec,
  isolated,
} from "./runtime/default.ts";
export { Pipe } from "./plane/pipe.ts";
export { shared } from "./plane/sharing.ts";
export { connect, Ipcctl, type ConnectOptions, type StartOptions } from "./runtime/connect.ts";
export { PythonWorker, type CallOptions, type EvalOptions } from "./runtime/python-worker.ts";
