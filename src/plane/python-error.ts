/** An exception from Python. */
import { limit } from "../base/limits.ts";

/** The fields that are sent: see python/ipcctl/_errors.py. */
export type ErrorRecord = {
  readonly type: string;
  readonly message: string;
  readonly traceback: string | null;
  readonly cause: ErrorRecord | null;
  /** The parts of a group. */
  readonly errors?: readonly ErrorRecord[];
  /** Of an error that has one: an IpcError, or one of the codecs. */
  readonly code?: string;
};

/** A Python exception: its type by name, and the traceback as Python prints it, with source lines. */
export class PythonError extends Error {
  override readonly name = "PythonError";
  /** `ValueError`, `mymodule.MyError`. An error of a bound function keeps the name that it had here. */
  readonly type: string;
  /** The message without the type. */
  readonly text: string;
  /** The parts of an ExceptionGroup, or of an AggregateError that came back from Python. */
  readonly errors: readonly PythonError[];
  /** Of an IpcError there, such as `NOT_FOUND`, or of a value that could not be encoded. */
  readonly code: string | undefined;
  /** Ends with `Type: message`. */
  readonly traceback: string;

  constructor(record: ErrorRecord) {
    super(
      record.message === "" ? record.type : `${record.type}: ${record.message}`,
      record.cause === null ? undefined : { cause: new PythonError(record.cause) },
    );
    this.type = record.type;
    this.text = record.message;
    this.errors = (record.errors ?? []).map((one) => new PythonError(one));
    this.code = record.code;
    this.traceback = record.traceback ?? "";
  }

  /** From a value that claims to be a record. `undefined` if it is not one: the other side may send anything. */
  static from(value: unknown): PythonError | undefined {
    if (value instanceof PythonError) return value;
    const record = recordFrom(value, 0);
    return record && new PythonError(record);
  }
}

const LEVELS_MAX = limit("errorLevels");

function recordFrom(value: unknown, level: number): ErrorRecord | undefined {
  if (value === null || typeof value !== "object" || level > LEVELS_MAX) return undefined;
  const { type, message, traceback, cause, errors, code } = value as Record<string, unknown>;
  if (typeof type !== "string" || typeof message !== "string") return undefined;
  return {
    type,
    message: value instanceof PythonError ? value.text : message,
    traceback: typeof traceback === "string" ? traceback : null,
    cause: recordFrom(cause, level + 1) ?? null,
    errors: Array.isArray(errors) ? errors.flatMap((one: unknown) => recordFrom(one, level + 1) ?? []) : [],
    ...(typeof code === "string" ? { code } : {}),
  };
}
