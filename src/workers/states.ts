/**
 * The life of a worker as a table: states × events → next state and effects. Pure; it never waits, reads a
 * clock or does anything. `docs/internals/worker-states.md` is generated from it.
 */
import type { StateWord } from "../protocol/status.ts";

/** Every state: its word in the protocol, and its meaning. */
export const STATES = {
  stopped: {
    word: "Stopped",
    meaning: "has no process, and none is wanted; also after an exit that the restart policy does not restart",
  },
  starting: { word: "Starting", meaning: "launched, but not executed yet, or not reported as ready yet" },
  running: { word: "Running", meaning: "executed, and ready if it reports that" },
  stopping: { word: "Stopping", meaning: "asked to end; its tree is killed after the grace period" },
  restarting: { word: "Stopping", meaning: "asked to end; it starts again once nothing of it is left" },
  backoff: { word: "Backoff", meaning: "ended; the next start waits for its delay" },
  crashed: {
    word: "Crashed",
    meaning: "ended too often (backoff exhausted), or could not be executed when a user started it",
  },
} as const satisfies Record<string, { word: StateWord; meaning: string }>;

export type State = keyof typeof STATES;

/** Every event, and where it comes from. */
export const EVENTS = {
  start: "a user, a dependent app or the start of the daemon wants it to run",
  stop: "a user wants it to stop",
  restart: "a user, a schedule, a watched file, a health check or a limit wants a fresh process",
  ready: "the worker reported READY, or does not report it and was executed",
  ended: "the run is over, and no other one follows",
  ended_retry: "the run is over, and the restart policy wants another one after a delay",
  ended_exhausted: "the run is over, and no attempt is left, or a start that a user requested could not be executed",
  retry_due: "the backoff delay is over",
} as const;

export type Event = keyof typeof EVENTS;

/** What the caller must do after a transition, in order. */
export const EFFECTS = {
  launch: "start a new run",
  end: "ask the shim to end the tree (signal, grace period, SIGKILL), once it answers and until it confirms",
  arm: "set the backoff timer",
  disarm: "cancel the backoff timer",
} as const;

export type Effect = keyof typeof EFFECTS;

export type Transition = { readonly next: State; readonly effects: readonly Effect[] };

const to = (next: State, ...effects: Effect[]): Transition => ({ next, effects });

/** Total by type: a state or event that is added above does not compile until its cells are filled in. */
export const TABLE: { readonly [S in State]: { readonly [E in Event]: Transition } } = {
  stopped: {
    start: to("starting", "launch"),
    stop: to("stopped"),
    restart: to("starting", "launch"),
    ready: to("stopped"),
    ended: to("stopped"),
    ended_retry: to("stopped"),
    ended_exhausted: to("stopped"),
    retry_due: to("stopped"),
  },
  starting: {
    start: to("starting"),
    stop: to("stopping", "end"),
    restart: to("restarting", "end"),
    ready: to("running"),
    ended: to("stopped"),
    ended_retry: to("backoff", "arm"),
    ended_exhausted: to("crashed"),
    retry_due: to("starting"),
  },
  running: {
    start: to("running"),
    stop: to("stopping", "end"),
    restart: to("restarting", "end"),
    ready: to("running"),
    ended: to("stopped"),
    ended_retry: to("backoff", "arm"),
    ended_exhausted: to("crashed"),
    retry_due: to("running"),
  },
  stopping: {
    start: to("restarting"),
    stop: to("stopping", "end"),
    restart: to("restarting", "end"),
    ready: to("stopping"),
    ended: to("stopped"),
    ended_retry: to("stopped"),
    ended_exhausted: to("stopped"),
    retry_due: to("stopping"),
  },
  restarting: {
    start: to("restarting"),
    stop: to("stopping", "end"),
    restart: to("restarting", "end"),
    ready: to("restarting"),
    ended: to("starting", "launch"),
    ended_retry: to("starting", "launch"),
    ended_exhausted: to("starting", "launch"),
    retry_due: to("restarting"),
  },
  backoff: {
    start: to("starting", "disarm", "launch"),
    stop: to("stopped", "disarm"),
    restart: to("starting", "disarm", "launch"),
    ready: to("backoff"),
    ended: to("backoff"),
    ended_retry: to("backoff"),
    ended_exhausted: to("backoff"),
    retry_due: to("starting", "launch"),
  },
  crashed: {
    start: to("starting", "launch"),
    stop: to("stopped"),
    restart: to("starting", "launch"),
    ready: to("crashed"),
    ended: to("crashed"),
    ended_retry: to("crashed"),
    ended_exhausted: to("crashed"),
    retry_due: to("crashed"),
  },
};

/** True while a process (and its shim) exists or is being started. */
export function isUp(state: State): boolean {
  return state === "starting" || state === "running" || state === "stopping" || state === "restarting";
}
