/** sd_notify: readiness, status, reload and watchdog, told to whoever started us. Silent where nobody listens. */
import { sendDatagram } from "../base/libc.ts";

export class Systemd {
  readonly #socket: string | undefined;
  readonly #watchdogMs: number | undefined;
  #timer: Timer | undefined;

  /** Takes its variables out of the environment: they are ours alone, no child's. */
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
   * After the socket is bound and every worker found again. Starts the watchdog: its timer runs only if the loop does.
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

  /** A long drain must not look like a hang. */
  extend(ms: number): void {
    this.#send(`EXTEND_TIMEOUT_USEC=${Math.round(ms * 1000)}`);
  }

  #send(text: string): void {
    if (this.#socket !== undefined) sendDatagram(this.#socket, text);
  }
}
