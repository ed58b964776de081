/**
 * Memory that Python has as well, into which large bytes are written: one value at a time, until Python has copied it.
 * It is there already, while new memory costs a fault for each of its pages on both sides.
 */
import { KEPT_ROOM } from "../../contract/engine.ts";
import { empty } from "../plane/system.ts";

/** Where the byte is that Python clears. */
const PLACE = KEPT_ROOM.bytes - 8;
/** What was not used for so long is given back to the kernel. */
const IDLE_MS = 5000;

export type Kept = {
  readonly bytes: Uint8Array;
  readonly place: number;
  /** It is not sent after all. */
  readonly leave: () => void;
};

export class KeptRoom {
  readonly #make: (bytes: number) => Uint8Array | undefined;
  #memory: Uint8Array | undefined;
  readonly #onGivenBack: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param make asks Python for memory of so many bytes */
  constructor(make: (bytes: number) => Uint8Array | undefined, onGivenBack: () => void = () => undefined) {
    this.#make = make;
    this.#onGivenBack = onGivenBack;
  }

  /** It will be given back by a timer. */
  get isTiming(): boolean {
    return this.#timer !== undefined;
  }

  /** Undefined where so much has no room, or that has another value. */
  take(bytes: number): Kept | undefined {
    if (bytes > PLACE) return undefined;
    const memory = (this.#memory ??= this.#make(KEPT_ROOM.bytes));
    if (memory === undefined || Atomics.load(memory, PLACE) !== 0) return undefined;
    memory[PLACE] = 1;
    this.#giveBackLater();
    return { bytes: memory.subarray(0, bytes), place: PLACE, leave: () => void (memory[PLACE] = 0) };
  }

  /** Code was ended in the middle of writing: nobody sends, or leaves, what it took. */
  forget(): void {
    this.#memory = undefined;
  }

  #giveBackLater(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      const memory = this.#memory;
      if (memory !== undefined && Atomics.load(memory, PLACE) !== 0) return this.#giveBackLater();
      if (memory !== undefined) empty(memory);
      this.#onGivenBack();
    }, IDLE_MS);
    this.#timer.unref();
  }
}
