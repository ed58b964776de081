/** Memory that is handed over by its descriptor: who passes it on need not map it. */
import { limit } from "../base/limits.ts";
import { BrokenChannel } from "./ring.ts";
import { closeFd, sealedBytes } from "./system.ts";

const forgotten = new FinalizationRegistry<{ fd: number }>((kept) => close(kept));

function close(kept: { fd: number }): void {
  if (kept.fd >= 0) closeFd(kept.fd);
  kept.fd = -1;
}

/** A memfd that nobody can shrink or grow any more. Whoever has it closes it, or hands it on. */
export class Sealed implements Disposable {
  readonly bytes: number;
  readonly #kept: { fd: number };

  /** @throws BrokenChannel if it is not sealed, empty, or too large; the descriptor is closed then */
  constructor(fd: number) {
    this.#kept = { fd };
    const bytes = sealedBytes(fd);
    if (bytes === undefined || bytes === 0 || bytes > limit("tableBytes")) {
      closeFd(fd);
      throw new BrokenChannel(
        bytes === undefined
          ? "memory that is not sealed, so it could be truncated"
          : `memory of ${bytes} bytes, where 1 to ${limit("tableBytes")} may be`,
      );
    }
    this.bytes = bytes;
    forgotten.register(this, this.#kept, this);
  }

  /** @throws Error if it was closed */
  get fd(): number {
    if (this.#kept.fd < 0) throw new Error("this memory was handed on, or closed");
    return this.#kept.fd;
  }

  [Symbol.dispose](): void {
    forgotten.unregister(this);
    close(this.#kept);
  }
}
