/** Sessions, which rules of host.json start for events, and prompts, which are such events. */
import type {
  EntrySession,
  PromptInfo,
  SessionDescription,
  SessionInfo,
  SessionList,
} from "../protocol/session-answers.ts";
import { ask, query, type Asker } from "./ask.ts";

export type PromptOptions = {
  /** Instead of the rule that host.json names for prompts. */
  readonly rule?: string | undefined;
  /** An earlier session of its group, whose workspace it gets. */
  readonly session?: string | undefined;
};

/** Each method throws an IpcError with the daemon's code. */
export class Sessions {
  readonly #asker: Asker;

  constructor(asker: Asker) {
    this.#asker = asker;
  }

  /** Publishes what somebody asks. Its session is started once; {@link wait} tells of it. */
  prompt(text: string, { rule, session }: PromptOptions = {}): Promise<PromptInfo> {
    return query(this.#asker, "Prompt", { text, rule: rule ?? null, session: session ?? null });
  }

  /**
   * What becomes of an entry of the queue: once its session has started or ended, or the time is over. A session that
   * has ended has `ended_at`; of an event that waits, or has found no room, it is null.
   */
  wait(entry: string, timeoutMs: number, until: "started" | "ended" = "ended"): Promise<EntrySession> {
    return query(this.#asker, "WaitSession", { entry, until, timeout_ms: timeoutMs });
  }

  /** Those that run and those that have ended, newest first. */
  async list({ group }: { readonly group?: string | undefined } = {}): Promise<SessionInfo[]> {
    const found: SessionInfo[] = [];
    let after: string | null = null;
    do {
      const page: SessionList = await query(this.#asker, "ListSessions", { group: group ?? null, after });
      found.push(...page.sessions);
      after = page.next;
    } while (after !== null);
    return found;
  }

  /** Also what was said in it. @throws IpcError NOT_FOUND */
  describe(id: string): Promise<SessionDescription> {
    return query(this.#asker, "ReadSession", { id });
  }

  /** Ends them, or drops what waits for its session, by its entry of the queue. */
  async stop(...ids: readonly [string, ...string[]]): Promise<void> {
    await ask(this.#asker, "StopSessions", { ids: [...ids] });
  }
}
