/**
 * Calls of high risk that wait for a person, and what persons have allowed. All of it is in SQLite before anybody is
 * told, so that a daemon which is killed has forgotten nothing: the router asks the next one again, by the same id.
 *
 * A yes is for one call. It is bound to who asks, the tool as it is described, the policy, and the bytes of the
 * request; where one of them is another one meanwhile, it is no yes. A grant is for the rest of a session, and for
 * exactly the argument values that a person has seen.
 */
import type { Database } from "bun:sqlite";
import { randomBytes } from "node:crypto";
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { openDatabase } from "../stores/database.ts";

const name = z.string().min(1);
const digest = z.string().regex(/^[0-9a-f]{64}$/);

const binding = z.strictObject({
  worker: name,
  session: name,
  tool: name,
  /** SHA-256 of its manifest and schema. */
  manifest: digest,
  /** SHA-256 of what the worker may do. */
  policy: digest,
  /** SHA-256 of the bytes of the request. */
  request: digest,
  /** SHA-256 of {@link Asked.arguments}. */
  values: digest,
});
/** What a yes is a yes to. */
export type Binding = z.output<typeof binding>;

const asked = z.strictObject({
  /** The host's id of the call. */
  id: name,
  binding,
  group: name,
  /** What the tool does, in its author's words. */
  description: z.string(),
  policy_name: z.string(),
  /** JSON, as they will be carried out. */
  arguments: z.string(),
  /** Of the request. */
  bytes: z.int().min(0),
  left_ms: z.int(),
});
/** What the router asks. */
export type Asked = z.output<typeof asked>;

/** What it is told. */
export type Verdict =
  | {
      readonly verdict: "yes";
      readonly binding: Binding;
      readonly uid: number;
      /** Id of the grant that covers it, if nobody was asked. */
      readonly grant: string | null;
    }
  | { readonly verdict: "no"; readonly uid: number; readonly reason: string | null }
  /** It is not what was asked first, or its session or policy is another one by now. */
  | { readonly verdict: "changed" }
  /** As many as may wait do so already. */
  | { readonly verdict: "full" };

/** What became of a call: carried out or refused as it was decided, too late, or no longer wanted. */
export type End = "taken" | "timeout" | "gone";

/** A call that waits. */
export type Pending = Omit<Asked, "left_ms"> & { readonly askedMs: number; readonly expiresMs: number };

/** A permission for the rest of a session. */
export type Grant = Omit<Binding, "request"> & {
  readonly id: string;
  readonly arguments: string;
  readonly grantedMs: number;
  readonly uid: number;
  /** Calls that it has allowed. */
  readonly uses: number;
};

export type Choice = "allow" | "allow_session" | "deny";

export type ApprovalsDeps = {
  /** Whether its session goes on, under the same policy. */
  readonly isCurrent: (of: Pick<Binding, "worker" | "session" | "policy">) => boolean;
  /** Whether its session goes on after the call, so that something can be allowed for it. */
  readonly isLasting: (of: Pick<Binding, "worker">) => boolean;
  readonly onPending: (pending: Pending) => void;
  readonly onDecided: (pending: Pending, outcome: Outcome) => void;
  /** Writes to the audit. @returns whether it was written */
  readonly record: (decided: Decided) => boolean;
  readonly nowMs?: () => number;
};

export type Outcome = "allowed" | "denied" | "timeout" | "void";

/** For the audit: what a person did. */
export type Decided = {
  readonly action: "allow" | "allow session" | "deny" | "revoke";
  readonly uid: number;
  readonly of: Omit<Binding, "request"> & { readonly request?: string };
  readonly id: string | undefined;
  readonly grant: string | undefined;
  readonly reason: string | undefined;
};

/** How long a decision waits for the router, to tell whether it came in time. */
const TAKEN_MS = 2000;
const GRANT_ID_BYTES = 4;

const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS pending (
    id TEXT PRIMARY KEY, session TEXT NOT NULL, asked TEXT NOT NULL, asked_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL, verdict TEXT) STRICT;
  CREATE TABLE IF NOT EXISTS grants (
    id TEXT PRIMARY KEY, session TEXT NOT NULL, binding TEXT NOT NULL, arguments TEXT NOT NULL,
    granted_ms INTEGER NOT NULL, uid INTEGER NOT NULL, uses INTEGER NOT NULL DEFAULT 0) STRICT;
`;

type Row = {
  readonly id: string;
  readonly asked: string;
  readonly asked_ms: number;
  readonly expires_ms: number;
  /** JSON of the {@link Verdict}, once there is one. */
  readonly verdict: string | null;
};
type GrantRow = {
  readonly id: string;
  readonly binding: string;
  readonly arguments: string;
  readonly granted_ms: number;
  readonly uid: number;
  readonly uses: number;
};

export class Approvals implements Disposable {
  readonly #db: Database;
  readonly #deps: ApprovalsDeps;
  readonly #nowMs: () => number;
  /** The router that waits for a verdict; the newest, if it has asked again. */
  readonly #waiting = new Map<string, (verdict: Verdict) => void>();
  /** Decisions that wait to hear whether they came in time. */
  readonly #deciding = new Map<string, (end: End) => void>();

  /** @throws IpcError if its file cannot be used */
  constructor(stateDir: string, deps: ApprovalsDeps) {
    this.#db = openDatabase(stateDir, "approvals", SCHEMA, SCHEMA_VERSION);
    this.#db.run("PRAGMA synchronous = FULL"); // a no that a power cut takes back would be a yes by the next person
    this.#deps = deps;
    this.#nowMs = deps.nowMs ?? Date.now;
  }

  // ---- the router ----

  /**
   * Waits for a person. Asked again, it goes on with what there is of the same id.
   * @throws IpcError BAD_REQUEST; FAILED if it cannot be stored
   */
  ask(question: unknown): Promise<Verdict> {
    const { success, data, error } = asked.safeParse(question);
    if (!success) throw new IpcError("BAD_REQUEST", `approve: ${error.issues[0]!.message}`);
    const { left_ms, ...call } = data;
    const verdict = this.#db.transaction(() => this.#enter(call, left_ms)).immediate();
    if (verdict !== undefined) return Promise.resolve(verdict);
    const { promise, resolve } = Promise.withResolvers<Verdict>();
    this.#waiting.set(call.id, resolve);
    return promise;
  }

  /** The router knows the verdict, or waits no longer. */
  over(id: string, end: End): void {
    this.#waiting.delete(id);
    const row = this.#row(id);
    if (row === null) return;
    this.#db.run("DELETE FROM pending WHERE id = ?", [id]);
    this.#deciding.get(id)?.(end);
    if (end === "taken") return;
    this.#deps.onDecided(pendingOf(row), end === "timeout" ? "timeout" : "void");
  }

  /** A router has come: of what others have asked nobody waits any more. @param ids what it waits for */
  keepOnly(ids: readonly string[]): void {
    for (const { id } of this.#rows()) if (!ids.includes(id)) this.over(id, "gone");
    this.#forgetEnded();
  }

  // ---- persons ----

  /** Oldest first. */
  list(): Pending[] {
    return this.#rows()
      .filter((row) => this.#isOpen(row) && this.#isStill(row))
      .map(pendingOf);
  }

  /** @throws IpcError NOT_FOUND; FAILED if it is no longer what was asked */
  get(id: string): Pending {
    const row = this.#row(id);
    if (row === null || !this.#isOpen(row))
      throw new IpcError("NOT_FOUND", `no call with the id ${JSON.stringify(id.slice(0, limit("nameChars")))} waits`, {
        hint: "ipcctl approve lists those that do",
      });
    if (this.#isStill(row)) return pendingOf(row);
    throw new IpcError("FAILED", `${id} is void: the run of its worker, or its policy, is another one by now`);
  }

  /**
   * Says yes or no, and waits for the router to hear it, so that nobody believes in a yes that came too late.
   * @param hash the beginning of the request's SHA-256, as it was shown; a no needs none
   * @throws IpcError NOT_FOUND; FAILED if it is another call, or over meanwhile; USAGE, LIMIT
   */
  async decide(id: string, choice: Choice, uid: number, hash: string | null, reason: string | null): Promise<void> {
    const pending = this.get(id);
    const of = pending.binding;
    requireHash(choice, hash, of.request);
    if (reason !== null && reason.length > limit("approvalReasonChars"))
      throw new IpcError("LIMIT", `reason: at most ${limit("approvalReasonChars")} characters, not ${reason.length}`);
    if (choice === "allow_session" && !this.#deps.isLasting(of))
      throw new IpcError("USAGE", `${of.worker} calls once, and has no session for which more could be allowed`, {
        hint: `allow this call: ipcctl approve ${id}`,
      });
    if (
      choice === "allow_session" &&
      this.grants().filter(({ session }) => session === of.session).length >= limit("approvalGrants")
    )
      throw new IpcError("LIMIT", `${of.session} has ${limit("approvalGrants")} grants, which is the most`, {
        hint: "allow this one call, or take one back: ipcctl approve --list-granted",
      });
    const grant = choice === "allow_session" ? randomBytes(GRANT_ID_BYTES).toString("hex") : undefined;
    const action = ({ allow: "allow", allow_session: "allow session", deny: "deny" } as const)[choice];
    const isRecorded = this.#deps.record({ action, uid, of, id, grant, reason: reason ?? undefined });
    if (!isRecorded && choice !== "deny")
      throw new IpcError("FAILED", "the audit cannot be written, so nothing of high risk is allowed", {
        hint: "make room on the disk of the state folder, and try again",
      });
    const taken = Promise.withResolvers<End | "unheard">();
    const timer = setTimeout(() => taken.resolve("unheard"), TAKEN_MS);
    this.#deciding.set(id, taken.resolve);
    try {
      const others = this.#store(pending, choice, uid, grant, reason);
      for (const one of [pending, ...others]) this.#tell(one);
      const end = await taken.promise;
      // Unheard: the router is down or slow; it finds the verdict when it asks again.
      if (end === "timeout" || end === "gone")
        throw new IpcError(
          "FAILED",
          `${id} was over meanwhile: ${end === "timeout" ? "its time ran out" : "its worker has given it up"}`,
        );
    } finally {
      clearTimeout(timer);
      this.#deciding.delete(id);
    }
  }

  /** What is allowed for sessions that go on, oldest first. */
  grants(): Grant[] {
    this.#forgetEnded();
    return this.#grantRows().map(grantOf);
  }

  /** @throws IpcError NOT_FOUND */
  revoke(id: string, uid: number): void {
    const grant = this.grants().find((one) => one.id === id);
    if (grant === undefined)
      throw new IpcError("NOT_FOUND", `no grant has the id ${JSON.stringify(id.slice(0, limit("nameChars")))}`, {
        hint: "ipcctl approve --list-granted shows them",
      });
    this.#db.run("DELETE FROM grants WHERE id = ?", [id]);
    this.#deps.record({ action: "revoke", uid, of: grant, id: undefined, grant: id, reason: undefined });
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }

  // ---- what is stored ----

  /** @returns what is known at once */
  #enter(call: Omit<Asked, "left_ms">, leftMs: number): Verdict | undefined {
    const of = call.binding;
    if (!this.#deps.isCurrent(of)) return this.#changed(call.id);
    const row = this.#row(call.id);
    if (row !== null) {
      if (row.asked !== JSON.stringify(call)) return this.#changed(call.id);
      return row.verdict === null ? undefined : (JSON.parse(row.verdict) as Verdict);
    }
    const grant = this.#grantRows().find(({ binding: text }) => text === JSON.stringify(covered(of)));
    if (grant !== undefined) {
      this.#db.run("UPDATE grants SET uses = uses + 1 WHERE id = ?", [grant.id]);
      return { verdict: "yes", binding: of, uid: grant.uid, grant: grant.id };
    }
    const { count } = this.#db
      .query<{ count: number }, [string]>("SELECT count(*) AS count FROM pending WHERE session = ?")
      .get(of.session)!;
    if (count >= limit("approvalsPending")) return { verdict: "full" };
    const now = this.#nowMs();
    const expiresMs = now + Math.max(0, Math.min(leftMs, limit("approvalMs")));
    this.#db.run("INSERT INTO pending (id, session, asked, asked_ms, expires_ms) VALUES (?, ?, ?, ?, ?)", [
      ...[call.id, of.session, JSON.stringify(call), now, expiresMs],
    ]);
    this.#deps.onPending({ ...call, askedMs: now, expiresMs });
    return undefined;
  }

  #changed(id: string): Verdict {
    const row = this.#row(id);
    if (row !== null) this.#void(row);
    return { verdict: "changed" };
  }

  #isOpen({ verdict, expires_ms }: Row): boolean {
    return verdict === null && expires_ms > this.#nowMs();
  }

  /** One that is not is no longer asked about. */
  #isStill(row: Row): boolean {
    if (this.#deps.isCurrent(pendingOf(row).binding)) return true;
    this.#void(row);
    return false;
  }

  #void(row: Row): void {
    this.#db.run("DELETE FROM pending WHERE id = ?", [row.id]);
    this.#deps.onDecided(pendingOf(row), "void");
    this.#waiting.get(row.id)?.({ verdict: "changed" });
    this.#waiting.delete(row.id);
  }

  /** @returns other calls that the new grant allows */
  #store(pending: Pending, choice: Choice, uid: number, grant: string | undefined, reason: string | null): Pending[] {
    const of = pending.binding;
    const put = this.#db.prepare<unknown, [string, string]>("UPDATE pending SET verdict = ? WHERE id = ?");
    const say = (id: string, verdict: Verdict): void => void put.run(JSON.stringify(verdict), id);
    return this.#db
      .transaction((): Pending[] => {
        if (choice === "deny") say(pending.id, { verdict: "no", uid, reason });
        else say(pending.id, { verdict: "yes", binding: of, uid, grant: grant ?? null });
        if (grant === undefined) return [];
        const covers = JSON.stringify(covered(of));
        this.#db.run(
          "INSERT INTO grants (id, session, binding, arguments, granted_ms, uid, uses) VALUES (?, ?, ?, ?, ?, ?, 1)",
          [grant, of.session, covers, pending.arguments, this.#nowMs(), uid],
        );
        const others = this.list().filter(
          ({ id, binding: one }) => id !== pending.id && JSON.stringify(covered(one)) === covers,
        );
        for (const one of others) say(one.id, { verdict: "yes", binding: one.binding, uid, grant });
        if (others.length > 0) this.#db.run("UPDATE grants SET uses = uses + ? WHERE id = ?", [others.length, grant]);
        return others;
      })
      .immediate();
  }

  #tell(pending: Pending): void {
    const verdict = JSON.parse(this.#row(pending.id)!.verdict!) as Verdict; // it was just stored
    this.#deps.onDecided(pending, verdict.verdict === "yes" ? "allowed" : "denied");
    this.#waiting.get(pending.id)?.(verdict);
    this.#waiting.delete(pending.id);
  }

  #row(id: string): Row | null {
    return this.#db.query<Row, [string]>("SELECT * FROM pending WHERE id = ?").get(id);
  }

  #rows(): Row[] {
    return this.#db.query<Row, []>("SELECT * FROM pending ORDER BY asked_ms, rowid").all();
  }

  #grantRows(): GrantRow[] {
    return this.#db.query<GrantRow, []>("SELECT * FROM grants ORDER BY granted_ms, rowid").all();
  }

  #forgetEnded(): void {
    for (const row of this.#grantRows())
      if (!this.#deps.isCurrent(grantOf(row))) this.#db.run("DELETE FROM grants WHERE id = ?", [row.id]);
  }
}

/** What of a call a grant is for: all but its own bytes, in which at least the correlation is another one. */
function covered({ worker, session, tool, manifest, policy, values }: Binding): Omit<Binding, "request"> {
  return { worker, session, tool, manifest, policy, values };
}

function pendingOf({ asked: text, asked_ms: askedMs, expires_ms: expiresMs }: Row): Pending {
  return { ...(JSON.parse(text) as Omit<Asked, "left_ms">), askedMs, expiresMs };
}

function grantOf({ id, binding: text, arguments: args, granted_ms: grantedMs, uid, uses }: GrantRow): Grant {
  return { ...(JSON.parse(text) as Omit<Binding, "request">), id, arguments: args, grantedMs, uid, uses };
}

/** @throws IpcError USAGE; FAILED if it is of another request */
function requireHash(choice: Choice, hash: string | null, request: string): void {
  if (choice === "deny" && hash === null) return;
  const digits = limit("approvalHashDigits");
  if (hash === null || hash.length < digits || !/^[0-9a-f]{1,64}$/.test(hash))
    throw new IpcError("USAGE", `hash: ${JSON.stringify(hash)} is not ${digits} to 64 digits of a SHA-256`, {
      hint: "it is shown with the call: ipcctl approve ID",
    });
  if (!request.startsWith(hash))
    throw new IpcError("FAILED", `the call is another one than was shown: its SHA-256 is ${request}`);
}
