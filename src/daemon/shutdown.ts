/** How the daemon ends: by the first request, and not before it is composed. */
import type { Logger } from "pino";
import { Ends, type Apps } from "./exit-with.ts";
import type { ExitInfo } from "../protocol/status.ts";
import type { Worker } from "../workers/worker.ts";

export type ShutdownRequest = { readonly keepWorkers: boolean; readonly status: number };

/** The first request is carried out; later ones are ignored. */
export class Shutdown {
  #request: ShutdownRequest | undefined;
  #carryOut: ((request: ShutdownRequest) => void) | undefined;

  get isRequested(): boolean {
    return this.#request !== undefined;
  }

  request(keepWorkers: boolean, status = 0): void {
    if (this.#request) return;
    this.#request = { keepWorkers, status };
    this.#carryOut?.(this.#request);
  }

  /** Called for the first request, also if that came before. */
  onRequest(carryOut: (request: ShutdownRequest) => void): void {
    this.#carryOut = carryOut;
    if (this.#request) carryOut(this.#request);
  }
}

/** `--exit-with`: checks each worker after each of its events. */
export class ExitWith {
  readonly #mode: string;
  readonly #shutdown: Shutdown;
  readonly #logger: Logger;
  readonly #ends = new Ends();

  constructor(mode: string, shutdown: Shutdown, logger: Logger) {
    this.#logger = logger;
    this.#mode = mode;
    this.#shutdown = shutdown;
  }

  note(worker: Worker, exits: readonly ExitInfo[], apps: Apps): void {
    if (this.#shutdown.isRequested) return;
    this.#ends.note(worker, exits);
    const status = this.#ends.status(this.#mode, apps);
    if (status === undefined) return;
    this.#logger.info({ worker: worker.id, status, exitWith: this.#mode }, "the daemon ends with its workers");
    this.#shutdown.request(false, status);
  }
}
