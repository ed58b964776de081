/** The one error class of the project and the closed table of its codes. */

/** Every code, the exit status it gives on the command line, and its one meaning. */
export const ERROR_CODES = {
  FAILED: { exit: 1, meaning: "the operation was tried and failed" },
  USAGE: { exit: 2, meaning: "the command line or a value in it is not understood" },
  BAD_CONFIG: { exit: 2, meaning: "a configuration file or definition does not fit its schema" },
  NO_DAEMON: { exit: 3, meaning: "no daemon answers and none could or may be started" },
  NOT_FOUND: { exit: 4, meaning: "nothing has this name: no worker, credential, plugin or file" },
  POLICY_REFUSED: { exit: 5, meaning: "a policy does not allow this" },
  DEADLINE: { exit: 124, meaning: "the time given ran out before the operation was done" },
  BAD_FRAME: { exit: 1, meaning: "the framing of the connection is broken; it is closed" },
  BAD_REQUEST: { exit: 1, meaning: "a sound frame whose content is no known request" },
  NOT_RUNNING: { exit: 1, meaning: "the worker is not running" },
  START_FAILED: { exit: 1, meaning: "the worker could not be started" },
  NO_PERMISSION: { exit: 1, meaning: "the peer may not speak to this daemon" },
  CONNECTION_LOST: { exit: 3, meaning: "the daemon, or the channel to a worker, went away in the middle of a request" },
  WORKER_CRASHED: { exit: 1, meaning: "the worker ended by itself, and not well, before it answered" },
  WORKER_STOPPED: { exit: 1, meaning: "the worker was stopped, or had done its work, before it answered" },
  WORKER_RESTARTED: { exit: 1, meaning: "the worker was restarted before it answered" },
  SUPERSEDED: { exit: 1, meaning: "a later stop or delete of the same worker cut it short" },
  LIMIT: { exit: 1, meaning: "a documented limit was reached" },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** A failure with a code from {@link ERROR_CODES} and, if there is one, the way out. */
export class IpcError extends Error {
  override readonly name = "IpcError";
  readonly code: ErrorCode;
  /** The next thing to try, usually a command. */
  readonly hint: string | undefined;
  /** The last lines of the process that failed, if there was one. */
  readonly output: readonly string[];

  constructor(
    code: ErrorCode,
    message: string,
    more: { hint?: string; cause?: unknown; output?: readonly string[] } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.code = code;
    this.hint = more.hint;
    this.output = more.output ?? [];
  }

  /**
   * Wraps a foreign error once, where it enters; an IpcError passes unchanged. Give `doing` only if no caller adds it.
   */
  static from(error: unknown, doing?: string): IpcError {
    if (error instanceof IpcError) return error;
    const reason = error instanceof Error ? error.message : String(error);
    return new IpcError("FAILED", doing === undefined ? reason : `${doing}: ${reason}`, { cause: error });
  }
}

/** Whether a string is one of our codes; a newer daemon may send others. */
export function isErrorCode(text: unknown): text is ErrorCode {
  return typeof text === "string" && Object.hasOwn(ERROR_CODES, text);
}

/** Does what is worth doing, but holds nothing up if it fails: that is told. */
export function attempt(work: () => void, onTrouble: (error: Error) => void): void {
  try {
    work();
  } catch (error) {
    onTrouble(error as Error);
  }
}

/** Ends every `switch` over a union: a case that is added elsewhere fails to compile here. */
export function never(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
