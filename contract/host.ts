/** What a worker may ask of the host and what it is told: the codes, and the stages that say them. */
import { LIMITS } from "./limits.ts";

/** Of each ring of a channel that requests go through: the longest one, with its length in front, has to fit. */
export const HOST_RING_BYTES = 2 * LIMITS.hostMessageBytes.value;

/** In the order in which a request passes them. */
export const STAGES = ["construct", "topic", "payload", "authorise", "confirm", "route"] as const;
export type Stage = (typeof STAGES)[number];

/** Of an answer that is an error. Retriable: the same request may succeed later, and was not carried out. */
export const HOST_CODES = {
  MALFORMED: { stage: "construct", retriable: false, says: "the request is not three fields of JSON" },
  TOO_LARGE: {
    stage: "construct",
    retriable: false,
    says: "the request is too large, too deep, or has too many values",
  },
  DUPLICATE_CORRELATION: { stage: "construct", retriable: false, says: "a request with this correlation is under way" },
  UNKNOWN_TOOL: { stage: "topic", retriable: false, says: "no plugin provides this tool" },
  VALIDATION_FAILED: {
    stage: "payload",
    retriable: false,
    says: "the arguments do not fit the tool's schema; `field` says where",
  },
  UNAUTHORIZED: { stage: "authorise", retriable: false, says: "the policy does not grant this tool" },
  RATE_LIMITED: { stage: "authorise", retriable: true, says: "too many requests; `retry_after` is in seconds" },
  CONFIRMATION_DENIED: { stage: "confirm", retriable: false, says: "a person said no" },
  CONFIRMATION_TIMEOUT: { stage: "confirm", retriable: false, says: "nobody approved it in time" },
  AUDIT_BROKEN: {
    stage: "confirm",
    retriable: true,
    says: "the audit cannot be written, so nothing of high risk runs; or it has no room, and nothing runs",
  },
  PLUGIN_TIMEOUT: { stage: "route", retriable: true, says: "an idempotent tool has not answered in time" },
  PLUGIN_UNAVAILABLE: { stage: "route", retriable: true, says: "the plugin does not run; nothing was carried out" },
  PLUGIN_ERROR: { stage: "route", retriable: false, says: "the plugin failed; the audit has the details" },
  HANDLER_ERROR: {
    stage: "route",
    retriable: false,
    says: "the plugin refused, and says why and whether to try again",
  },
  CANCELLED: { stage: "route", retriable: false, says: "the worker gave it up" },
  UNKNOWN_OUTCOME: {
    stage: "route",
    retriable: false,
    says: "it was begun, and nobody knows whether it was carried out",
  },
} as const satisfies Readonly<Record<string, { stage: Stage; retriable: boolean; says: string }>>;
export type HostCode = keyof typeof HOST_CODES;

/** Before the name of a tool, which is PLUGIN.TOOL. */
export const TOOL_TOPIC = "tool.invoke.";
/** Of a request that gives up the one of its correlation. It gets no answer of its own. */
export const CANCEL_TOPIC = "tool.cancel";
/** Of a request that says that the table of a number (`arguments.table`) is no longer used. It gets no answer. */
export const LET_GO_TOPIC = "table.let_go";

/** Tools of the host itself for a worker whose policy grants runtimes of JavaScript. */
export const START_RUNTIME = "core.start_runtime";
export const INTERRUPT_RUNTIME = "core.interrupt_runtime";
/** Why the daemon has ended one, of which the kernel says only by which signal. */
export const EXPLAIN_RUNTIME = "core.explain_runtime";
/** The variable of a worker that says how many it may have at once. */
export const RUNTIMES_VARIABLE = "IPCCTL_RUNTIMES";

/** Exit statuses of the command `ipc`; of any other code it is 1. */
export const HOST_EXITS = {
  VALIDATION_FAILED: 2,
  UNKNOWN_TOOL: 4,
  UNAUTHORIZED: 5,
  CONFIRMATION_DENIED: 5,
  CONFIRMATION_TIMEOUT: 124,
  PLUGIN_TIMEOUT: 124,
  CANCELLED: 130,
} as const satisfies Partial<Readonly<Record<HostCode, number>>>;
