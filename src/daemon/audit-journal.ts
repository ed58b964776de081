/**
 * The end of the chained audit in the system's journal, if there is one: only root can change it there, so it shows
 * that the user has cut or rewritten both the log and the daemon's database.
 */
import { existsSync } from "node:fs";
import type { Anchor } from "../audit/chain-lines.ts";
import { sendDatagram } from "../base/libc.ts";

const SOCKET = "/run/systemd/journal/socket";
/** The journal is everybody's: it gets the first lines of files, and the newest one not more often than this. */
const TELL_MS = 60_000;

export class AuditJournal {
  readonly #stateDir: string;
  readonly #nowMs: () => number;
  readonly #socket: string;
  #toldMs = Number.NEGATIVE_INFINITY;
  #begun = 0;

  constructor(stateDir: string, nowMs: () => number, socket = SOCKET) {
    this.#stateDir = stateDir;
    this.#nowMs = nowMs;
    this.#socket = socket;
  }

  /** @param anchors oldest first; all but the newest one are first lines of files */
  tell(anchors: readonly Anchor[]): void {
    const newest = anchors.at(-1);
    const begun = anchors.at(-2)?.line ?? 0;
    const nowMs = this.#nowMs();
    if (newest === undefined || (begun <= this.#begun && nowMs < this.#toldMs + TELL_MS)) return;
    if (!existsSync(this.#socket) || this.#stateDir.includes("\n")) return;
    this.#begun = begun;
    this.#toldMs = nowMs;
    for (const { line, digest } of anchors.slice(-2))
      sendDatagram(
        this.#socket,
        [
          `MESSAGE=line ${line} of the audit in ${this.#stateDir} has the SHA-256 ${digest}`,
          ...["PRIORITY=6", "SYSLOG_IDENTIFIER=ipcctl-audit"],
          ...[`IPCCTL_STATE_DIR=${this.#stateDir}`, `IPCCTL_AUDIT_LINE=${line}`, `IPCCTL_AUDIT_DIGEST=${digest}`],
        ].join("\n"),
        false,
      );
  }
}
