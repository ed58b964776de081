/** Sessions: what a rule starts for one event, as verbs tell of them. */
import type { EntryInfo } from "./happenings.ts";

/** Which workspace a session has: an empty one; that of its group; that of the session that the event names. */
export const SESSION_MODES = ["fresh", "resume", "explicit"] as const;
export type SessionMode = (typeof SESSION_MODES)[number];

/**
 * `starting` · `running` · `done` with exit 0 · `failed` · `stopped` by somebody · `timeout` of its rule · `full`: its
 * workspace had more than may be in it · `lost`: nobody knows how it ended.
 */
export const SESSION_STATES = ["starting", "running", "done", "failed", "stopped", "timeout", "full", "lost"] as const;
export type SessionState = (typeof SESSION_STATES)[number];

export type SessionInfo = {
  readonly id: string;
  /** The name of its worker. */
  readonly worker: string;
  readonly rule: string;
  readonly group: string;
  readonly mode: SessionMode;
  /** The event that it is for, and the place of that in the queue. */
  readonly event: string;
  readonly entry: string;
  readonly state: SessionState;
  readonly started_at: string;
  readonly ended_at: string | null;
  readonly seconds: number;
  /** Calls of tools. */
  readonly requests: number;
  /** Those of them that the host refused. */
  readonly denials: number;
  /** Calls of high risk that wait for a person now. */
  readonly approvals: number;
  readonly exit_code: number | null;
  readonly exit_signal: string | null;
  /** What it came to, in a sentence. */
  readonly outcome: string | null;
  /** Where its output lies; null once that was removed. */
  readonly log_dir: string | null;
};

/** A call of a tool, from the audit, which has more of it. */
export type SessionCall = {
  readonly time: string;
  readonly tool: string;
  /** Null if it was carried out. */
  readonly code: string | null;
  readonly ms: number;
};

export type SessionLine = { readonly time: string; readonly stream: "stdout" | "stderr"; readonly text: string };

export type SessionDescription = SessionInfo & {
  /** Who published its event. */
  readonly source: string;
  /** What it was asked; null if its event is no prompt. */
  readonly prompt: string | null;
  readonly calls: readonly SessionCall[];
  /** What it printed: the end of it while it runs, and afterwards the newest of it that is kept. */
  readonly output: readonly SessionLine[];
  /** There was more of it. */
  readonly is_cut: boolean;
  readonly workspace: string;
  /** Of its files; null once the workspace was removed. */
  readonly workspace_bytes: number | null;
  readonly workspace_files: number | null;
};

export type SessionList = { readonly sessions: SessionInfo[]; readonly next: string | null };

/** An event that a prompt has published, and its place in the queue. */
export type PromptInfo = { readonly event: string; readonly entry: string };

/** What has become of an entry of the queue. */
export type EntrySession = { readonly entry: EntryInfo; readonly session: SessionInfo | null };
