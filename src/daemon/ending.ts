/** How the daemon ends: by whoever asks first, and not before it is put together. */
import type { Logger } from "pino";
import { Ends, type Apps } from "./exit-with.ts";
import type { ExitInfo } from "../protocol/status.ts";
import type { Worker } from "../workers/worker.ts";

export type Wish = { readonly keepWorkers: boolean; readonly status: number };

/** The first wish is the one that is carried out. */
export class Ending {
  #wish: Wish | undefined;
  #carryOut: ((wish: Wish) => void) | undefined;

  get isWanted(): boolean {
    return this.#wish !== undefined;
  }

  want(keepWorkers: boolean, status = 0): void {
    if (this.#wish) return;
    this.#wish = { keepWorkers, status };
    this.#carryOut?.(this.#wish);
  }

  /** From now on, also if one came before. */
  onWish(carryOut: (wish: Wish) => void): void {
    this.#carryOut = carryOut;
    if (this.#wish) carryOut(this.#wish);
  }
}

/** `--exit-with`: looks at each worker that something happened to. */
export class ExitWith {
  readonly #mode: string;
  readonly #ending: Ending;
  readonly #logger: Logger;
  readonly #ends = new Ends();

  constructor(mode: string, ending: Ending, logger: Logger) {
    this.#logger = logger;
    this.#mode = mode;
    this.#ending = ending;
  }

  note(worker: Worker, exits: readonly ExitInfo[], apps: Apps): void {
    if (this.#ending.isWanted) return;
    this.#ends.note(worker, exits);
    const status = this.#ends.status(this.#mode, apps);
    if (status === undefined) return;
    this.#logger.info({ worker: worker.id, status, exitWith: this.#mode }, "the daemon ends with its workers");
    this.#ending.want(false, status);
  }
}
