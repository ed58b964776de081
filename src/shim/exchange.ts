/** What the daemon asks a shim and what it hears from it, in bytes. The frames are in `docs/internals/shim.md`. */
import { LATENCY_CLASSES, STATISTICS } from "../../contract/segment.ts";
import { REPLY, REQUEST, SCOPE, SHIM_VERSION, STATE } from "../../contract/shim.ts";
import { frame, u32 } from "./spec.ts";

const EMPTY = Buffer.alloc(0);

/** What a shim says about its run when it is first asked. */
export type ShimState = {
  /** Of its contract: older than ours if it was started before an upgrade. */
  readonly version: number;
  readonly run: number;
  readonly pid: number;
  readonly startTime: number;
  readonly startedNs: bigint;
  readonly isReady: boolean;
  readonly isStopping: boolean;
  readonly hasExited: boolean;
  readonly isLogBlocked: boolean;
  readonly droppedLines: number;
  readonly isAttached: boolean;
};

/** What clients asked of the worker's runtime in this run. The worker counts, so it may lie. */
export type CallCounts = {
  /** Open channels, and requests without an answer yet. */
  readonly channels: number;
  readonly waiting: number;
  readonly calls: number;
  readonly errors: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** Requests that took at least 2^(i-1) and less than 2^i microseconds. */
  readonly latencies: readonly number[];
  /** Of all requests together; undefined if the shim is too old to report it. */
  readonly nanoseconds: number | undefined;
};

export type Scope = (typeof SCOPE)[keyof typeof SCOPE];

/** The frames of what a daemon asks. */
export const request = {
  hello: () => frame(REQUEST.hello, u32(SHIM_VERSION)),
  signal: (signal: number, scope: Scope) => frame(REQUEST.signal, Buffer.concat([u32(signal), Buffer.of(scope)])),
  stop: (graceMs: number, signal: number) => frame(REQUEST.stop, Buffer.concat([u32(graceMs), u32(signal)])),
  flush: () => frame(REQUEST.flush, EMPTY),
  calls: () => frame(REQUEST.calls, EMPTY),
} as const;

export type Reply =
  | { readonly kind: "ready" | "exited" | "rotated" }
  | { readonly kind: "state"; readonly state: ShimState }
  | { readonly kind: "logFull"; readonly isBlocked: boolean; readonly droppedLines: number }
  | { readonly kind: "status"; readonly text: string }
  /** To the oldest request that is answered with OK or ERR; 0: done. */
  | { readonly kind: "answer"; readonly errno: number }
  | { readonly kind: "attached"; readonly isAttached: boolean }
  | { readonly kind: "calls"; readonly counts: CallCounts };

/** Undefined: not known here. A later shim of the same contract version may send more. */
export function replyOf(type: number, payload: Buffer): Reply | undefined {
  switch (type) {
    case REPLY.state:
      return { kind: "state", state: parseState(payload) };
    case REPLY.ready:
      return { kind: "ready" };
    case REPLY.exited:
      return { kind: "exited" };
    case REPLY.rotated:
      return { kind: "rotated" };
    case REPLY.logFull:
      return {
        kind: "logFull",
        isBlocked: payload.readUInt8(0) === 1,
        droppedLines: Number(payload.readBigUInt64LE(1)),
      };
    case REPLY.status:
      return { kind: "status", text: payload.toString("utf8") };
    case REPLY.ok:
      return { kind: "answer", errno: 0 };
    case REPLY.error:
      return { kind: "answer", errno: Math.abs(payload.readInt32LE(1)) };
    case REPLY.attached:
      return { kind: "attached", isAttached: payload.readUInt8(0) === 1 };
    case REPLY.calls:
      return { kind: "calls", counts: parseCalls(payload) };
    default:
      return undefined;
  }
}

function parseState(payload: Buffer): ShimState {
  return {
    version: payload.readUInt32LE(STATE.version),
    run: Number(payload.readBigUInt64LE(STATE.run)),
    pid: payload.readUInt32LE(STATE.pid),
    startTime: Number(payload.readBigUInt64LE(STATE.startTime)),
    startedNs: payload.readBigUInt64LE(STATE.startedNs),
    isReady: payload.readUInt8(STATE.ready) === 1,
    isStopping: payload.readUInt8(STATE.stopping) === 1,
    hasExited: payload.readUInt8(STATE.exited) === 1,
    isLogBlocked: payload.readUInt8(STATE.logBlocked) === 1,
    droppedLines: Number(payload.readBigUInt64LE(STATE.droppedLines)),
    isAttached: payload.readUInt8(STATE.attached) === 1,
  };
}

function parseCalls(payload: Buffer): CallCounts {
  const words = (payload.length - 8) / 8; // an older shim sends fewer
  const word = (index: number): number => Number(payload.readBigUInt64LE(8 + 8 * index));
  return {
    channels: payload.readUInt32LE(0),
    waiting: payload.readUInt32LE(4),
    calls: word(STATISTICS.answered),
    errors: word(STATISTICS.errors),
    bytesIn: word(STATISTICS.bytesIn),
    bytesOut: word(STATISTICS.bytesOut),
    latencies: Array.from({ length: LATENCY_CLASSES }, (_, index) => word(STATISTICS.latencies + index)),
    nanoseconds: words > STATISTICS.nanoseconds ? word(STATISTICS.nanoseconds) : undefined,
  };
}
