/**
 * The daemon's part of the audit: takes what all processes write to their spools into the one chain, and has the end of
 * the chain remembered elsewhere. What cannot be written waits in the spools, and nobody is kept from going on.
 */
import { closeSync, constants, fdatasync, mkdirSync, openSync, watch, type FSWatcher } from "node:fs";
import { basename, join } from "node:path";
import { limit } from "../base/limits.ts";
import { AuditChain } from "./chain.ts";
import { chainFolderOf, NO_LINE, type Anchor, type Head } from "./chain-lines.ts";
import { SpoolCursor, type SpoolLine, type SpoolState } from "./cursor.ts";
import type { AuditRecord } from "./schema.ts";
import { auditFolderOf, legacyLogOf, listSpools, ROUTER_SPOOL, spoolOfFile } from "./spool.ts";
import { writeTaken } from "./taken.ts";

/** Between two turns, while there is something to do: what comes meanwhile costs one write. */
const TICK_MS = 100;
/**
 * After a turn that has left something behind, so many times as long as it took, and at least this: others have the
 * core in between, those above all whose calls are recorded. Where much waits, a spool is read about as fast as a
 * router writes it; where little does and more is being written, as usual.
 */
const BEHIND_MS = 1;
const REST = { little: 9, much: 2 };
/** Not taken yet: a quarter of the room. */
const MUCH_BYTES = limit("auditUntakenBytes") / 4;
/** After a turn that could not write. */
const RETRY_MS = 2000;
/** What a start may wait for spools that grew while no daemon ran; the rest follows in turns. */
const START_MS = 250;
/** Spools that have a turn at once. */
const TURN_SPOOLS = 16;
/** Between the first line that is not anchored and its anchor. */
const ANCHOR_MS = 1000;

export type CollectorDeps = {
  readonly stateDir: string;
  /** Oldest first. */
  readonly anchors: readonly Anchor[];
  /** Keeps them, instead of those before. */
  readonly onAnchors: (anchors: readonly Anchor[]) => void;
  readonly onTrouble: (text: string) => void;
  readonly onHealed: (text: string) => void;
  /** A record that the chain has now. */
  readonly onRecord?: (record: AuditRecord) => void;
  /** For how long a file is kept after its end; undefined for as long as usual. */
  readonly keptMs?: () => number | undefined;
  readonly nowMs: () => number;
};

export class AuditCollector implements Disposable {
  readonly #deps: CollectorDeps;
  /** Undefined while it cannot be read. */
  #chain: AuditChain | undefined;
  readonly #cursors = new Map<string, SpoolCursor>();
  /** Spools that may have something new; one that has had its turn goes to the end. */
  readonly #waiting = new Set<string>();
  #anchors: Anchor[];
  #watcher: FSWatcher | undefined;
  #turn: Timer | undefined;
  #anchoring: Timer | undefined;
  #trouble: string | undefined;
  #isClosed = false;
  /** How long the last turn took, if it has left something behind. */
  #behindMs: number | undefined;
  /** Of the router's spool, after the turn before. */
  #bytes = 0;
  /** What the router was told. */
  #told = "";

  /** Takes in what was written while no daemon ran. */
  constructor(deps: CollectorDeps) {
    this.#deps = deps;
    this.#anchors = [...deps.anchors];
    this.#addAll();
    const end = performance.now() + START_MS;
    while (this.#takeIn() && performance.now() < end);
    this.#plan();
  }

  /** Why nothing is taken in, in a sentence; undefined if it is. */
  get trouble(): string | undefined {
    return this.#trouble;
  }

  get head(): Head {
    return this.#chain?.head ?? NO_LINE;
  }

  /** To be called now and then: finds what nobody told of, and removes what is too old. */
  look(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    try {
      this.#prune();
    } catch (error) {
      this.#report(error as NodeJS.ErrnoException);
    }
    this.#addAll();
    this.#plan();
  }

  /** Takes in what there is, and remembers the end of it. */
  [Symbol.dispose](): void {
    this.#isClosed = true;
    clearTimeout(this.#turn);
    clearTimeout(this.#anchoring);
    this.#watcher?.close();
    this.#addAll();
    const end = performance.now() + START_MS;
    while (this.#takeIn() && performance.now() < end);
    try {
      this.#chain?.sync();
      this.#anchor();
    } catch {
      // The next daemon goes on from what there is.
    }
  }

  #cursorOf(spool: string, state?: SpoolState): SpoolCursor {
    const { stateDir } = this.#deps;
    const legacy = legacyLogOf(stateDir);
    const path = spool === basename(legacy) ? legacy : join(auditFolderOf(stateDir), spool);
    return new SpoolCursor(path, { joinsDamaged: true, ...(state === undefined ? {} : { state }) });
  }

  #addAll(): void {
    const { stateDir } = this.#deps;
    this.#watch();
    this.#waiting.add(basename(legacyLogOf(stateDir)));
    for (const spool of this.#cursors.keys()) this.#waiting.add(spool);
    for (const path of listSpools(auditFolderOf(stateDir))) this.#waiting.add(basename(path));
  }

  #watch(): void {
    if (this.#watcher !== undefined || this.#isClosed) return;
    const folder = auditFolderOf(this.#deps.stateDir);
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      this.#watcher = watch(folder, (_, file) => {
        const spool = spoolOfFile(file ?? "");
        if (spool !== undefined) this.#waiting.add(spool);
        this.#plan();
      });
      this.#watcher.on("error", () => undefined); // the next look watches again
      this.#watcher.unref();
    } catch {
      // The user has no inotify left: the next look finds what is new.
    }
  }

  #plan(): void {
    if (this.#waiting.size === 0 || this.#isClosed || this.#turn !== undefined) return;
    const wait = this.#trouble === undefined ? this.#restMs() : RETRY_MS;
    this.#turn = setTimeout(() => {
      this.#turn = undefined;
      this.#takeIn();
      this.#plan();
    }, wait);
    this.#turn.unref();
  }

  #restMs(): number {
    const turnMs = this.#behindMs;
    if (turnMs === undefined) return TICK_MS;
    const { bytes, unreadBytes } = this.#cursors.get(ROUTER_SPOOL) ?? { bytes: 0, unreadBytes: 0 };
    const isMuch = unreadBytes >= MUCH_BYTES;
    const isGrowing = bytes !== this.#bytes;
    this.#bytes = bytes;
    if (isGrowing && !isMuch) return TICK_MS;
    return Math.max(BEHIND_MS, turnMs * (isMuch ? REST.much : REST.little));
  }

  /** Has a turn of some spools. Returns whether others wait, and could be taken in. */
  #takeIn(): boolean {
    const turn = [...this.#waiting].slice(0, TURN_SPOOLS);
    const startMs = performance.now();
    this.#behindMs = undefined;
    if (turn.length === 0) return false;
    const back: (() => void)[] = [];
    try {
      const chain = (this.#chain ??= this.#open());
      chain.prepare(this.#states());
      for (const spool of turn) this.#waiting.delete(spool);
      const lines = turn.map((spool) => this.#read(spool, back));
      const all = merged(lines);
      if (all.length > 0) chain.append(all);
      back.length = 0;
      for (const line of all) if (line.kind === "record") this.#deps.onRecord?.(line.record);
      if (chain.isLarge) this.#rotate(chain);
    } catch (error) {
      for (const undo of back) undo();
      for (const spool of turn) this.#waiting.add(spool);
      this.#report(error as NodeJS.ErrnoException);
      return false;
    }
    if (turn.includes(ROUTER_SPOOL)) this.#tellRouter();
    if (turn.some((spool) => this.#cursors.get(spool)?.isBehind === true)) this.#behindMs = performance.now() - startMs;
    if (this.head.line > (this.#anchors.at(-1)?.line ?? 0)) this.#planAnchor();
    if (this.#trouble !== undefined) this.#deps.onHealed("the chained audit is written again");
    this.#trouble = undefined;
    return this.#waiting.size > 0;
  }

  /** Goes on where the last daemon ended. @throws if the chain cannot be read */
  #open(): AuditChain {
    const { stateDir, nowMs } = this.#deps;
    const chain = new AuditChain(chainFolderOf(stateDir), this.#anchors.at(-1), nowMs);
    for (const [spool, state] of chain.states) this.#cursors.set(spool, this.#cursorOf(spool, state));
    return chain;
  }

  #read(spool: string, back: (() => void)[]): SpoolLine[] {
    let cursor = this.#cursors.get(spool);
    if (cursor === undefined) this.#cursors.set(spool, (cursor = this.#cursorOf(spool)));
    const undo = cursor.mark();
    try {
      const lines = cursor.read(limit("auditTickBytes"));
      back.push(undo);
      if (cursor.isBehind) this.#waiting.add(spool); // behind those that wait already
      return lines;
    } catch {
      undo(); // whatever is wrong with it, the others are read: the next look tries again
      return [];
    }
  }

  /** The chain has it now: the router may overwrite it. */
  #tellRouter(): void {
    const taken = this.#cursors.get(ROUTER_SPOOL)?.state?.files ?? new Map<string, number>();
    const told = JSON.stringify([...taken]);
    if (told === this.#told) return;
    try {
      writeTaken(join(auditFolderOf(this.#deps.stateDir), ROUTER_SPOOL), taken);
      this.#told = told;
    } catch {
      // The router waits for the next turn.
    }
  }

  #states(): Map<string, SpoolState> {
    const states = new Map<string, SpoolState>();
    for (const [spool, { state }] of this.#cursors) if (state !== undefined) states.set(spool, state);
    return states;
  }

  #rotate(chain: AuditChain): void {
    chain.sync();
    this.#anchor();
    chain.rotate(this.#states());
    this.#prune();
    for (const [spool, { state }] of this.#cursors) if (state === undefined) this.#cursors.delete(spool);
    this.#anchor();
  }

  /** What is removed is not anchored any more: if this process is killed in between, nothing looks cut. */
  #prune(): void {
    const files = this.#chain?.outdated(this.#deps.keptMs?.()) ?? [];
    if (files.length === 0) return;
    const firsts = files.map(({ first }) => first);
    this.#anchors = this.#anchors.filter(({ line }) => !firsts.includes(line));
    this.#deps.onAnchors(this.#anchors);
    this.#chain!.remove(files);
  }

  #planAnchor(): void {
    if (this.#anchoring !== undefined || this.#isClosed) return;
    this.#anchoring = setTimeout(() => this.#anchorSynced(), ANCHOR_MS);
    this.#anchoring.unref();
  }

  /** An anchor must not be on the disk before its line is: after a power cut the chain would look cut. */
  #anchorSynced(): void {
    const chain = this.#chain!; // it was written
    const { path, head } = chain;
    const done = (isSynced: boolean): void => {
      this.#anchoring = undefined;
      if (this.#isClosed) return;
      if (isSynced && chain.path === path) this.#anchor(head);
      if (chain.head.line > head.line) this.#planAnchor();
    };
    try {
      const fd = openSync(path!, constants.O_RDONLY | constants.O_NOFOLLOW);
      fdatasync(fd, (error) => {
        closeSync(fd);
        done(!error);
      });
    } catch {
      done(false); // it was removed: the next turn says so
    }
  }

  /** Beside the newest line the first ones of all files, which have the SHA-256 of the last ones before them. */
  #anchor(head = this.head): void {
    const { begun, firsts } = this.#chain ?? {};
    if (begun === undefined || firsts === undefined) return;
    const time = new Date(this.#deps.nowMs()).toISOString();
    const kept = this.#anchors.filter(({ line }) => line < begun.line && firsts.includes(line));
    const first = this.#anchors.find(({ line, digest }) => line === begun.line && digest === begun.digest);
    const newest = head.line > begun.line ? [{ ...head, time }] : [];
    this.#anchors = [...kept, first ?? { ...begun, time }, ...newest];
    this.#deps.onAnchors(this.#anchors);
  }

  #report({ code, message }: NodeJS.ErrnoException): void {
    if (this.#trouble !== undefined) return;
    const why = code === "ENOSPC" ? "the disk is full" : message;
    this.#trouble = `the chained audit cannot be written (${why}): records wait where they were made`;
    this.#deps.onTrouble(this.#trouble);
  }
}

/** In the order of their times, and of each spool in its own. */
function merged(sources: readonly (readonly SpoolLine[])[]): SpoolLine[] {
  const filled = sources.filter((lines) => lines.length > 0);
  if (filled.length <= 1) return [...(filled[0] ?? [])];
  const nexts = filled.map(() => 0);
  const all: SpoolLine[] = [];
  for (;;) {
    let least: number | undefined;
    for (const [index, lines] of filled.entries()) {
      const time = lines[nexts[index]!]?.time;
      if (time !== undefined && (least === undefined || time < filled[least]![nexts[least]!]!.time)) least = index;
    }
    if (least === undefined) return all;
    all.push(filled[least]![nexts[least]!++]!);
  }
}
