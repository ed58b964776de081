/** Sleeps until a log directory may have changed: also one that does not exist yet, or is deleted and made again. */
import { existsSync } from "node:fs";
import { basename, dirname } from "node:path";
import { DirectoryWatches, type DirectoryListener } from "./directory-watch.ts";

/** Of the whole process, because Bun's watches are: see {@link DirectoryWatches}. */
const WATCHES = new DirectoryWatches();

/** A worker's `logs` lies two levels below the directory of all workers, and both levels come and go. */
const ANCESTORS = 2;
/** Only where the system gives no watch (inotify's limits). */
const POLL_MS = 1000;

/** One reader's view of a directory. Level triggered: a change between two waits makes the second return at once. */
export class Wake implements Disposable {
  readonly #watched: { readonly path: string; readonly listener: DirectoryListener }[] = [];
  #isWatched = true;
  #isDirty = true;
  #resolve: (() => void) | undefined;

  constructor(dir: string) {
    this.#watch(dir, () => this.#stir());
    for (let path = dirname(dir), child = dir, level = 1; path !== child; child = path, path = dirname(path), level++) {
      const name = basename(child);
      this.#watch(path, (changed) => {
        if (changed === undefined || changed === name || changed === basename(path)) this.#refresh();
      });
      if (level >= ANCESTORS && existsSync(path)) break;
    }
  }

  /** Call before looking; what changes from here on ends the next {@link Wake.wait}. */
  clear(): void {
    this.#isDirty = false;
  }

  /** Returns when something changed since {@link Wake.clear}, or the signal is aborted. */
  async wait(signal: AbortSignal | undefined): Promise<void> {
    if (this.#isDirty || signal?.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#resolve = resolve;
    signal?.addEventListener("abort", resolve, { once: true });
    const timer = this.#isWatched ? undefined : setTimeout(resolve, POLL_MS);
    await promise;
    clearTimeout(timer);
    signal?.removeEventListener("abort", resolve);
    this.#resolve = undefined;
  }

  [Symbol.dispose](): void {
    for (const { path, listener } of this.#watched) WATCHES.remove(path, listener);
  }

  #watch(path: string, listener: DirectoryListener): void {
    this.#watched.push({ path, listener });
    if (!WATCHES.add(path, listener)) this.#isWatched = false;
  }

  #refresh(): void {
    for (const { path } of this.#watched) {
      if (!WATCHES.refresh(path)) this.#isWatched = false;
    }
    this.#stir();
  }

  #stir(): void {
    this.#isDirty = true;
    this.#resolve?.();
  }
}
