/** Memory that is written once, sealed, and handed over by its descriptor: who passes it on need not map it. */
import { limit } from "../base/limits.ts";
import { BrokenChannel } from "./ring.ts";
import { closeFd, copyMemory, cutAndSeal, mapAddress, openMemory, sealedBytes, unmapAddress } from "./system.ts";

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

/** Writes what becomes {@link Sealed}, one piece after the other. */
export class SealedWriter implements Disposable {
  readonly #fd: number;
  readonly #address: number;
  #used = 0;
  #isOver = false;

  /** @throws IpcError if no descriptor or memory is left */
  constructor() {
    this.#fd = openMemory(limit("tableBytes"));
    try {
      this.#address = mapAddress(this.#fd, limit("tableBytes"));
    } catch (error) {
      closeFd(this.#fd);
      throw error;
    }
  }

  get used(): number {
    return this.#used;
  }

  /** Whether so many bytes fit as well. */
  hasRoom(bytes: number): boolean {
    return this.#used + bytes <= limit("tableBytes");
  }

  /** @throws RangeError if it does not fit */
  write(bytes: Uint8Array): void {
    copyMemory(this.#take(bytes.length), bytes);
  }

  /** The same from an address, at which so many bytes are. */
  writeFrom(address: number, bytes: number): void {
    copyMemory(this.#take(bytes), address, bytes);
  }

  /** Zeroes. */
  skip(bytes: number): void {
    this.#take(bytes);
  }

  #take(bytes: number): number {
    if (this.#isOver || !this.hasRoom(bytes))
      throw new RangeError(`${this.#used + bytes} bytes: at most ${limit("tableBytes")} fit`);
    const at = this.#address + this.#used;
    this.#used += bytes;
    return at;
  }

  /** What was written; nothing more can be. */
  finish(): Sealed {
    this.#unmap();
    try {
      cutAndSeal(this.#fd, this.#used);
    } catch (error) {
      closeFd(this.#fd);
      throw error;
    }
    return new Sealed(this.#fd);
  }

  #unmap(): void {
    this.#isOver = true;
    unmapAddress(this.#address, limit("tableBytes"));
  }

  /** Without a result. */
  [Symbol.dispose](): void {
    if (this.#isOver) return;
    this.#unmap();
    closeFd(this.#fd);
  }
}
