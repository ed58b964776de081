/** The new root of a worker: only what it may see, each path in its usual place. */
import { existsSync, lstatSync, readlinkSync, realpathSync } from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
import { isBelow } from "../base/paths.ts";

/** In mount order; the shim creates the parent folders. */
export type MountStep =
  | {
      readonly kind: "bind";
      readonly path: string;
      readonly isWritable: boolean;
      readonly isDevice: boolean;
      /**
       * Files of the folder's owner belong to the worker there, and files that the worker creates belong to the owner.
       */
      readonly isMapped?: boolean;
    }
  | { readonly kind: "link"; readonly path: string; readonly target: string }
  | { readonly kind: "folder"; readonly path: string }
  | {
      readonly kind: "scratch";
      readonly path: string;
      readonly bytes: number;
      readonly files: number;
      readonly mayExec: boolean;
    }
  | { readonly kind: "hide"; readonly path: string }
  | { readonly kind: "cover"; readonly path: string }
  | { readonly kind: "proc"; readonly path: string };

const LINKS_MAX = 40;

/** Collects the visible paths. Symbolic links on the way stay links, so that nothing else becomes visible. */
export class Root {
  readonly #steps: MountStep[] = [];
  readonly #bound: { path: string; isWritable: boolean }[] = [];
  readonly #links = new Set<string>();

  /** @returns the real path; undefined if it does not exist */
  show(path: string, how: { isWritable?: boolean; isDevice?: boolean; isMapped?: boolean } = {}): string | undefined {
    const real = this.#walk(path);
    if (real === undefined) return undefined;
    const isWritable = how.isWritable === true;
    if (this.#bound.some((one) => isBelow(real, one.path) && (one.isWritable || !isWritable))) return real;
    this.#bound.push({ path: real, isWritable });
    const isMapped = how.isMapped === true;
    this.#steps.push({ kind: "bind", path: real, isWritable, isDevice: how.isDevice === true, isMapped });
    return real;
  }

  /** Adds another name for a path that is already visible. */
  alias(path: string): void {
    if (!existsSync(path)) return;
    const real = realpathSync(path);
    if (this.#bound.some((one) => isBelow(real, one.path))) this.#walk(path);
  }

  /** Remounts a part of a path that is already visible. */
  again(real: string, how: { isWritable: boolean; isMapped: boolean }): void {
    this.#steps.push({ kind: "bind", path: real, isDevice: false, ...how });
  }

  /** The worker's own entry in /proc. Its children would see the same one. */
  self(): void {
    this.#steps.push({ kind: "bind", path: "/proc/self", isWritable: false, isDevice: false });
  }

  /** A /proc of the worker's own PID namespace. */
  proc(): void {
    this.#steps.push({ kind: "proc", path: "/proc" });
  }

  folder(path: string): void {
    this.#steps.push({ kind: "folder", path });
  }

  scratch(path: string, bytes: number, files: number, mayExec: boolean): void {
    this.#steps.unshift({ kind: "scratch", path, bytes, files, mayExec });
  }

  hide(path: string): void {
    this.#steps.push({ kind: "hide", path });
  }

  /** Parents before their contents; hidden paths last. */
  steps(): MountStep[] {
    const order = (step: MountStep): number =>
      step.kind === "hide" ? 3 : step.kind === "cover" ? 1 : step.kind === "scratch" ? 0 : 2;
    const depth = (step: MountStep): number => step.path.split("/").length;
    return [...this.#steps, ...this.#covers()].toSorted((a, b) => order(a) - order(b) || depth(a) - depth(b));
  }

  /**
   * A script below /tmp is mounted inside the scratch folder's place. Its parent folders must not belong to the scratch
   * folder: a file written beside the script would seem to be saved, and be lost.
   */
  #covers(): MountStep[] {
    const found = new Set<string>();
    for (const scratch of this.#steps.filter(({ kind }) => kind === "scratch"))
      for (const { kind, path } of this.#steps) {
        if (kind === "scratch" || !isBelow(path, scratch.path)) continue;
        const [name] = path.slice(scratch.path.length + 1).split("/");
        const outermost = join(scratch.path, name!);
        const isShown = this.#steps.some((one) => one.path === outermost && one.kind !== "folder");
        if (!isShown) found.add(outermost);
      }
    return [...found].map((path) => ({ kind: "cover", path }));
  }

  #walk(path: string): string | undefined {
    const rest = path.split("/").filter(Boolean);
    let at = "/";
    for (let links = 0; rest.length > 0;) {
      const name = rest.shift()!;
      if (name === ".") continue;
      if (name === "..") {
        at = dirname(at);
        continue;
      }
      const next = join(at, name);
      const status = lstatSync(next, { throwIfNoEntry: false });
      if (status === undefined) return undefined;
      if (!status.isSymbolicLink()) {
        at = next;
        continue;
      }
      if (++links > LINKS_MAX) return undefined;
      const target = readlinkSync(next);
      if (!this.#links.has(next) && !this.#bound.some((one) => isBelow(next, one.path))) {
        this.#links.add(next);
        this.#steps.push({ kind: "link", path: next, target });
      }
      rest.unshift(...target.split("/").filter(Boolean));
      if (isAbsolute(target)) at = "/";
    }
    return at;
  }
}
