/**
 * Programs of this user that listen on loopback, for the transport `http` and for webhooks. The daemon itself opens no
 * port: what it parses comes from its own user.
 */
import type { AuditSpool } from "../audit/spool.ts";
import type { AuditEntry } from "../audit/schema.ts";
import { IpcError } from "../base/errors.ts";

/** In which one refusal is recorded; how many more there were, the next one says. */
const RECORD_MS = 1000;

export class Listeners {
  readonly #audit: AuditSpool;
  readonly #nowMs: () => number;
  /** By connection, the newest last. */
  readonly #urls = new Map<number, string>();
  /** By what was refused. */
  readonly #refused = new Map<string, { atMs: number; more: number }>();

  constructor(audit: AuditSpool, nowMs: () => number) {
    this.#audit = audit;
    this.#nowMs = nowMs;
  }

  /** Of the newest listener. @throws IpcError NOT_RUNNING */
  get url(): string {
    const url = [...this.#urls.values()].at(-1);
    if (url !== undefined) return url;
    throw new IpcError("NOT_RUNNING", "transport: nothing listens for workers that ask by http", {
      hint: "start the program that listens first, or leave out --transport http",
    });
  }

  /** Until its connection ends. @throws IpcError USAGE */
  add(connection: number, text: string): void {
    const url = URL.parse(text);
    const isLoopback = url?.protocol === "http:" && ["127.0.0.1", "[::1]"].includes(url.hostname) && url.port !== "";
    if (!isLoopback || `${url.origin}/` !== url.href)
      throw new IpcError("USAGE", `url: ${JSON.stringify(text)} is not a URL of loopback`, {
        hint: "it has the form http://127.0.0.1:PORT",
      });
    this.#urls.delete(connection); // the newest is the last one
    this.#urls.set(connection, url.origin);
  }

  remove(connection: number): void {
    this.#urls.delete(connection);
  }

  /** Records a refusal: anybody on this machine can cause as many as they like. */
  refused(entry: Omit<AuditEntry, "worker"> & { readonly reason: string }): void {
    const last = this.#refused.get(entry.reason);
    if (last !== undefined && this.#nowMs() - last.atMs < RECORD_MS) {
      last.more++;
      return;
    }
    this.#audit.write({ worker: "", ...entry, verdict: "denied", ...(last?.more ? { suppressed: last.more } : {}) });
    this.#refused.set(entry.reason, { atMs: this.#nowMs(), more: 0 });
  }
}
