/** `prompt`: asks, prints the answer as it comes, and ends as the session does. */
import { IpcError } from "../base/errors.ts";
import { sleep } from "../base/patience.ts";
import { signalNumber } from "../base/signals.ts";
import { textOf } from "../logs/cri.ts";
import { localLog, LogView, type SourcedPiece } from "../logs/view.ts";
import type { SessionInfo } from "../protocol/session-answers.ts";
import type { Connection } from "../sdk/connection.ts";
import { jsonText, printable, writeError, type Context } from "./context.ts";
import { LogPrinter } from "./log-printer.ts";
import { put } from "./output.ts";

export type PromptFlags = {
  readonly rule?: string | undefined;
  readonly session?: string | undefined;
  readonly timeoutMs?: number | undefined;
};

/** Between two looks whether somebody must be asked. */
const LOOK_MS = 1000;
/** How long the next daemon is waited for. */
const REJOIN_MS = 15_000;
const REJOIN_PAUSE_MS = 50;
const TIMED_OUT = 124;
const SIGNAL_EXIT = 128;

/** @param text `-` for stdin */
export async function prompt(context: Context, text: string, flags: PromptFlags): Promise<number> {
  const asked = text === "-" ? await Bun.stdin.text() : text;
  if (asked.trim() === "")
    throw new IpcError("USAGE", "prompt: there is nothing in it", { hint: "ipcctl prompt 'What is new?'" });
  using asking = new Asking(context);
  return await asking.run(asked, flags);
}

class Asking implements Disposable {
  readonly #context: Context;
  #connection: Connection | undefined;
  /** Its place in the queue, by which it can be ended before there is a session. */
  #entry: string | undefined;
  /** Why we end it: our own exit status. */
  #verdict: number | undefined;
  #timer: Timer | undefined;

  constructor(context: Context) {
    this.#context = context;
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#connection?.close();
  }

  async run(text: string, { rule, session: named, timeoutMs }: PromptFlags): Promise<number> {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
      process.on(signal, () => this.#giveUp(SIGNAL_EXIT + signalNumber(signal)));
    if (timeoutMs !== undefined) this.#timer = setTimeout(() => this.#giveUp(TIMED_OUT), timeoutMs);
    this.#connection = await this.#context.connect();
    const { event, entry } = await this.#connection.sessions.prompt(text, { rule, session: named });
    this.#entry = entry;
    if (this.#verdict !== undefined) this.#end();
    this.#step({ step: "published", event, entry });
    const session = await this.#started(entry);
    if (session === undefined) return this.#verdict ?? 1;
    this.#step({ step: "started", session: session.id, worker: session.worker, rule: session.rule });
    const ended = await this.#answer(entry, session);
    this.#step({ step: "ended", ...ended });
    const isSeen = ended.state === "done" || ended.state === "stopped" || ended.state === "failed";
    const hasExit = ended.exit_code !== null || ended.exit_signal !== null;
    if (!isSeen || (ended.state === "failed" && !hasExit)) this.#tell(ended.outcome ?? ended.state);
    return this.#verdict ?? statusOf(ended);
  }

  /** Undefined, and said, if none will be. */
  async #started(entry: string): Promise<SessionInfo | undefined> {
    for (let isTold = false; ;) {
      const { session, entry: now } = await this.#ask((one) => one.sessions.wait(entry, LOOK_MS, "started")).catch(
        (error: unknown) => {
          // What we have dropped ourselves is not known any more.
          if (this.#verdict !== undefined && IpcError.from(error).code === "NOT_FOUND") return GONE;
          throw error;
        },
      );
      if (session !== null && session.state !== "starting") return session;
      if (now === undefined) return undefined;
      if (now.state === "dead" || now.state === "done") {
        this.#tell(now.outcome ?? "it was dropped");
        return undefined;
      }
      if (!isTold && now.state === "queued")
        this.#context.note(`waits for other sessions of the group ${printable(now.group)}`);
      isTold = true;
    }
  }

  async #answer(entry: string, session: SessionInfo): Promise<SessionInfo> {
    const ending = new AbortController();
    const { worker, log_dir: dir } = session;
    const printing = dir === null ? this.#printKept(session.id) : this.#print(worker, dir, ending.signal);
    let now = session;
    for (let isOver = now.ended_at !== null; !isOver;) {
      const found = await this.#ask((one) => one.sessions.wait(entry, LOOK_MS));
      if (found.session === null) throw new IpcError("FAILED", `session ${session.id} is not known any more`);
      if (found.session.approvals > now.approvals || (now === session && now.approvals > 0)) {
        this.#step({ step: "waiting", approvals: found.session.approvals });
        this.#context.note("waits for a person; see: ipcctl approve");
      }
      now = found.session;
      isOver = now.ended_at !== null || found.entry.state === "done" || found.entry.state === "dead";
    }
    ending.abort();
    await printing;
    return now;
  }

  async #print(worker: string, dir: string, ending: AbortSignal): Promise<void> {
    const never = new AbortController().signal;
    const follow = async (stream: "stdout" | "stderr"): Promise<void> => {
      const fd = stream === "stdout" ? 1 : 2;
      const source = localLog(worker, dir, { isNew: true });
      const view = new LogView({ lines: 0, sinceMs: 0, stream });
      const printer = new LogPrinter(this.#context, [source], false, false, fd);
      for await (const { pieces, lost } of view.following(source, never, ending)) {
        if (lost !== undefined) this.#tell(lost.sentence);
        if (this.#context.isJson) for (const one of pieces) this.#line(one);
        else await put(fd, Buffer.concat([printer.lines(pieces), printer.unfinished(view.unfinished(source))]));
      }
      if (this.#context.isJson) for (const one of view.unfinished(source)) this.#line(one);
      else await put(fd, printer.end());
    };
    await Promise.all([follow("stdout"), follow("stderr")]);
  }

  /** Its log is gone already: so many others have ended since. */
  async #printKept(id: string): Promise<void> {
    const { output } = await this.#ask((one) => one.sessions.describe(id));
    for (const line of output)
      if (this.#context.isJson) this.#step({ step: "output", ...line });
      else await put(line.stream === "stdout" ? 1 : 2, Buffer.from(`${line.text}\n`));
  }

  #line({ piece: { timestamp: time, stream, text, isEnd } }: SourcedPiece): void {
    this.#step({ step: "output", time, stream, text: textOf(text), ...(isEnd ? {} : { partial: true }) });
  }

  /** A second time: nobody waits for its end any more. */
  #giveUp(status: number): void {
    if (this.#verdict !== undefined) process.exit(this.#verdict);
    this.#verdict = status;
    if (this.#entry !== undefined) this.#end();
  }

  /** By a connection of its own: on the other one something may be waited for. */
  #end(): void {
    const entry = this.#entry!;
    const end = async (): Promise<void> => {
      using connection = await this.#context.connect();
      await connection.sessions.stop(entry);
    };
    this.#patiently(end).catch((error: unknown) => {
      const { code, message } = IpcError.from(error);
      if (code !== "NOT_FOUND") writeError({ code, message }, this.#context.isJson);
    });
  }

  #ask<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    return this.#patiently(async () => {
      if (this.#connection?.isOpen !== true) this.#connection = await this.#context.connect();
      return await work(this.#connection);
    });
  }

  /** Asks the next daemon if the one before has ended. The session goes on meanwhile. */
  async #patiently<T>(work: () => Promise<T>): Promise<T> {
    const deadline = performance.now() + REJOIN_MS;
    for (;;) {
      try {
        return await work();
      } catch (error) {
        const { code } = IpcError.from(error);
        if ((code !== "CONNECTION_LOST" && code !== "NO_DAEMON") || performance.now() > deadline) throw error;
        await sleep(REJOIN_PAUSE_MS);
      }
    }
  }

  #step(fields: object): void {
    if (this.#context.isJson) this.#context.print(jsonText(fields));
  }

  #tell(message: string): void {
    if (this.#verdict === undefined) writeError({ code: "FAILED", message }, this.#context.isJson);
  }
}

const GONE = { session: null, entry: undefined };

function statusOf({ state, exit_code: code, exit_signal: signal }: SessionInfo): number {
  if (state === "done") return 0;
  if (state === "timeout") return TIMED_OUT;
  if (code !== null) return code === 0 ? 1 : code;
  return signal === null ? 1 : SIGNAL_EXIT + signalNumber(signal);
}
