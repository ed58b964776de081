/** An exception that came out of Python. */

/** What crosses of one: see `describe` in python/ipcctl/_calling.py. */
export type ErrorRecord = {
  readonly type: string;
  readonly message: string;
  readonly traceback: string | null;
  readonly cause: ErrorRecord | null;
};

/** A Python exception: its type by name, and the traceback as Python prints it, source lines included. */
export class PythonError extends Error {
  override readonly name = "PythonError";
  /** `ValueError`, `mymodule.MyError`. */
  readonly type: string;
  /** Ends with `Type: message`. */
  readonly traceback: string;

  constructor(record: ErrorRecord) {
    super(
      record.message === "" ? record.type : `${record.type}: ${record.message}`,
      record.cause === null ? undefined : { cause: new PythonError(record.cause) },
    );
    this.type = record.type;
    this.traceback = record.traceback ?? "";
  }

  /** From something that claims to be a record. `undefined` if it is none: the other side may send anything. */
  static from(value: unknown, depth = 0): PythonError | undefined {
    if (value === null || typeof value !== "object" || depth > 16) return undefined;
    const { type, message, traceback, cause } = value as Record<string, unknown>;
    if (typeof type !== "string" || typeof message !== "string") return undefined;
    const error = new PythonError({
      type,
      message,
      traceback: typeof traceback === "string" ? traceback : null,
      cause: null,
    });
    const below = PythonError.from(cause, depth + 1);
    if (below) error.cause = below;
    return error;
  }
}
