/** What a runtime can show of itself: its heap, and where its time goes. And who may debug it. */
import type inspector from "node:inspector";
import { FROM_ENGINE as TO, TO_ENGINE as FROM } from "../../contract/engine.ts";
import { debug, heapSnapshot } from "./engine-platform.ts";
import type { Session } from "./guest-session.ts";

export class Pictures {
  readonly #session: Session;
  readonly #takeSocket: () => number;
  #profiler: inspector.Session | undefined;

  /** @param takeSocket the descriptor that arrived last */
  constructor(session: Session, takeSocket: () => number) {
    this.#session = session;
    this.#takeSocket = takeSocket;
  }

  take(kind: number, number: number, fields: readonly unknown[]): boolean {
    const fail = (error: unknown): void => this.#session.refuse(number, (error as Error).message);
    if (kind === FROM.heap) heapSnapshot().then((picture) => this.#session.tell([TO.result, number, picture]), fail);
    else if (kind === FROM.profile) this.#profile(number, fields[2] as number | null);
    else if (kind === FROM.debug) debug(this.#takeSocket());
    else return false;
    return true;
  }

  #profile(number: number, interval: number | null): void {
    if (interval !== null) {
      if (this.#profiler) return this.#session.refuse(number, "A profile is being taken already");
      // It takes 3 ms to load, and each start of an engine would wait for it.
      const { Session: Profiler } = process.getBuiltinModule("node:inspector");
      const profiler = (this.#profiler = new Profiler());
      profiler.connect();
      profiler.post("Profiler.enable");
      profiler.post("Profiler.setSamplingInterval", { interval });
      profiler.post("Profiler.start", () => this.#session.tell([TO.result, number, null]));
      return;
    }
    const profiler = this.#profiler;
    if (!profiler) return this.#session.refuse(number, "No profile is being taken");
    this.#profiler = undefined;
    profiler.post("Profiler.stop", (error, told) => {
      profiler.disconnect();
      if (error) this.#session.refuse(number, error.message);
      else this.#session.tell([TO.result, number, Buffer.from(JSON.stringify(told.profile))]);
    });
  }
}
