/** What the daemon answers: bunctl's four tags, with additions that its clients ignore. */
import type { ErrorCode, IpcError } from "../base/errors.ts";

/** The version of this protocol; a daemon also accepts the one before. */
export const PROTOCOL = 2;

export type EventMessage = {
  readonly Event: {
    readonly event_type: string;
    readonly data: Readonly<Record<string, unknown>>;
    /** The number of an event in the stream, for a client that subscribed with `since`. */
    readonly seq?: number;
    /** When it happened, in RFC 3339, likewise. */
    readonly time?: string;
  };
};

export type Response =
  | { readonly Success: { readonly message: string } }
  | {
      readonly Error: {
        readonly message: string;
        readonly code: ErrorCode;
        readonly hint?: string;
        /** The last lines of the process that failed. */
        readonly output?: readonly string[];
      };
    }
  | { readonly Data: { readonly data: unknown } }
  | EventMessage;

/** The words of `status_change`. */
export type StatusChange =
  "starting" | "running" | "stopping" | "crashed" | "stopped" | "backoff_exhausted" | "removed";

/** Every event and the fields beside `app`. */
export type WorkerEvent =
  | { readonly type: "status_change"; readonly state: StatusChange }
  | { readonly type: "process_started"; readonly pid: number }
  | { readonly type: "process_exited"; readonly exit_code: number | null }
  /** Any failure: an exit code other than 0, a signal, a limit, or a start that did not succeed. */
  | {
      readonly type: "process_crashed";
      readonly reason: string;
      readonly exit_code: number | null;
      readonly signal: string | null;
    }
  /** Attempt 0 is a restart that was asked for. */
  | { readonly type: "process_restarting"; readonly attempt: number; readonly delay_ms: number }
  | {
      readonly type: "log_line";
      readonly line: string;
      readonly stream: "stdout" | "stderr";
      readonly timestamp: string;
    }
  /** Lines that were deleted or damaged before they could be read. */
  | { readonly type: "log_lost"; readonly reason: string }
  | { readonly type: "health_check_failed"; readonly reason: string }
  /** Somebody has published an event: about no worker. */
  | {
      readonly type: "published";
      readonly id: string;
      readonly topic: string;
      readonly key: string | null;
      readonly source: string;
      /** Null if it is too large for a stream (`is_cut`); `queue show` has it. */
      readonly data: unknown;
      readonly is_cut: boolean;
    }
  /** A call of high risk waits for a person. */
  | {
      readonly type: "approval_pending";
      readonly id: string;
      readonly tool: string;
      readonly session: string;
      readonly sha256: string;
      readonly expires_at: string;
    }
  | {
      readonly type: "approval_decided";
      readonly id: string;
      readonly tool: string;
      readonly session: string;
      readonly outcome: ApprovalOutcome;
    }
  | {
      readonly type: "resource_limit_exceeded";
      readonly resource: string;
      readonly limit: number;
      readonly current: number;
    };

/** What a call was decided to, or over which it ended: nobody said anything in time, or nobody wants it any more. */
export type ApprovalOutcome = "allowed" | "denied" | "timeout" | "void";

/** An event of the stream. `seq` is one higher than that of the event before, also over restarts of the daemon. */
export type SequencedEvent = {
  readonly seq: number;
  readonly time: string;
  /** Null if it is about no worker. */
  readonly app: string | null;
  readonly body: WorkerEvent;
};

/** Topics of events, and what a request for them is called. */
export const SUBSCRIPTIONS = {
  status: "StatusEvents",
  logs: "LogEvents",
  all: "AllEvents",
  events: "PublishedEvents",
} as const;

/**
 * What StatusEvents delivers; LogEvents delivers `log_line` and `log_lost`, PublishedEvents `published`, AllEvents
 * everything.
 */
export const STATUS_EVENTS: ReadonlySet<WorkerEvent["type"]> = new Set([
  "status_change",
  "process_started",
  "process_exited",
  "process_crashed",
  "process_restarting",
]);

export function success(message: string): { Success: { message: string } } {
  return { Success: { message } };
}

/** @param count null if it is not known how many */
export function eventsDropped(count: number | null): EventMessage {
  return { Event: { event_type: "events_dropped", data: { app: null, count } } };
}

export function failure({ code, message, hint, output }: IpcError): Response {
  return {
    Error: { message, code, ...(hint === undefined ? {} : { hint }), ...(output.length === 0 ? {} : { output }) },
  };
}

export function data<T>(value: T): { Data: { data: T } } {
  return { Data: { data: value } };
}

export function event(app: string | null, body: WorkerEvent): EventMessage {
  const { type, ...fields } = body;
  return { Event: { event_type: type, data: { app, ...fields } } };
}
