/** sd_notify: readiness, status, reload and watchdog for a supervisor. Silent if none listens. */
import { sendDatagram } from "../base/libc.ts";

export class Systemd {
  readonly #socket: string | undefined;
  readonly #watchdogMs: number | undefined;
  #timer: Timer | undefined;

  /** Removes its variables from the environment: they are for this process, not for its children. */
  constructor(env: NodeJS.ProcessEnv, pid: number) {
    const socket = env.NOTIFY_SOCKET;
    this.#socket = socket !== undefined && /^[@/]/.test(socket) ? socket : undefined;
    const usec = Number(env.WATCHDOG_USEC ?? "");
    const isOurs = env.WATCHDOG_PID === undefined || Number(env.WATCHDOG_PID) === pid;
    this.#watchdogMs = usec > 0 && isOurs ? usec / 1000 : undefined;
    for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"])
      delete env[name];
  }

  /**
   * Called after the socket is bound and every worker is adopted. Starts the watchdog, whose timer runs only while the
   * event loop does.
   */
  ready(status: string): void {
    this.#send(`READY=1\nSTATUS=${status}`);
    if (this.#watchdogMs === undefined) return;
    this.#timer = setInterval(() => this.#send("WATCHDOG=1"), this.#watchdogMs / 2);
    this.#timer.unref();
  }

  status(text: string): void {
    this.#send(`STATUS=${text}`);
  }

  reloading(): void {
    this.#send(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  stopping(): void {
    clearInterval(this.#timer);
    this.#send("STOPPING=1");
  }

  /** A long shutdown must not look like a hang. */
  extend(ms: number): void {
    this.#send(`EXTEND_TIMEOUT_USEC=${Math.round(ms * 1000)}`);
  }

  #send(text: string): void {
    if (this.#socket !== undefined) sendDatagram(this.#socket, text);
  }
}
