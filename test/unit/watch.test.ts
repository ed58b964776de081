/** Which files restart a worker, and how many folders are watched for that. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { limit } from "../../src/base/limits.ts";
import { FileWatch } from "../../src/workers/watching.ts";
import type { Worker } from "../../src/workers/worker.ts";
import { waitUntil } from "../deadline.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-watch-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

class Watched implements Disposable {
  readonly restarts: string[] = [];
  readonly problems: string[] = [];
  readonly #watch: FileWatch;

  constructor(watch: boolean | string[] = true) {
    const worker = { config: { watch, cwd: dir }, isWanted: true } as unknown as Worker;
    this.#watch = new FileWatch(
      worker,
      (reason) => this.restarts.push(reason),
      (reason) => this.problems.push(reason),
      [join(dir, "home/state")],
    );
  }

  async notices(file: string): Promise<void> {
    writeFileSync(join(dir, file), `${this.restarts.length}`);
    await waitUntil(
      () => this.restarts.includes(`${file} changed`),
      `${file} restarts it: ${this.restarts.join(", ")}`,
    );
  }

  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]();
  }
}

const folder = (path: string): string => {
  mkdirSync(join(dir, path), { recursive: true });
  return path;
};

test("a file in any folder below restarts it, also in one that was made later or moved, and nothing that is ignored does", async () => {
  folder("a/b");
  folder("node_modules/x");
  folder("home/state/workers");
  using watched = new Watched();
  writeFileSync(join(dir, "home/state/workers/run"), ""); // by the daemon itself
  folder("home/state/more");
  await watched.notices("a/b/one.py");
  writeFileSync(join(dir, "node_modules/x/two.js"), "");
  folder("a/c/d");
  await waitUntil(() => watched.restarts.includes("a/c changed"), "the new folder is seen");
  await watched.notices("a/c/d/three.py");
  renameSync(join(dir, "a/c"), join(dir, "moved"));
  await waitUntil(() => watched.restarts.includes("moved changed"), "the moved folder is seen");
  await watched.notices("moved/d/four.py");
  expect(watched.restarts.filter((reason) => /node_modules|state/.test(reason))).toEqual([]);
  expect(watched.problems).toEqual([]);
});

test("as many folders as the limit says are watched, what is ignored not counted; of one more it is told", async () => {
  const most = limit("watchDirs");
  for (let index = 0; index < most - 1; index++) folder(`f${index}`);
  for (let index = 0; index < 100; index++) folder(`.venv/f${index}`);
  {
    using watched = new Watched();
    for (const index of [0, Math.floor(most / 2), most - 2]) await watched.notices(`f${index}/a.py`);
    expect(watched.problems).toEqual([]);
  }
  folder("one-more");
  using watched = new Watched();
  expect(watched.problems).toEqual([
    `${dir} has folders that are not watched: ${most} are watched for one worker; list those that matter in "watch" of its definition`,
  ]);
  await watched.notices("top.py");
});

test("a folder that cannot be watched is told", () => {
  using watched = new Watched(["not-there"]);
  expect(watched.problems).toHaveLength(1);
  expect(watched.problems[0]).toContain(`${join(dir, "not-there")} cannot be watched`);
});
