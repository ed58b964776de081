/** What the tests themselves rest on: a hang is told by its name, harms no other test, and skips are counted. */
import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Home, isAlive, outcomeOf, ROOT, waitUntil, within, type CliResult } from "../home.ts";

/** `bun test` with a file of its own, as the suite is run. */
async function runTests(text: string, env: Record<string, string> = {}): Promise<CliResult> {
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-suite-"));
  try {
    const file = join(folder, "one.test.ts");
    writeFileSync(file, text.replaceAll("@/", `${join(import.meta.dir, "..")}/`));
    const { IPCCTL_TEST_REQUIRE: _, IPCCTL_TEST_SKIPPED: __, ...outer } = process.env as Record<string, string>;
    const preload = join(import.meta.dir, "../preload.ts");
    const child = Bun.spawn([process.execPath, "--no-env-file", "test", "--preload", preload, file], {
      cwd: folder,
      env: { ...outer, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    return await outcomeOf(child);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("what hangs is named, with the state of the daemon behind it, and is ended; the others go on", async () => {
  const { stderr, stdout, status } = await runTests(`
import { readFileSync } from "node:fs";
import { beforeAll, afterAll, expect, test } from "bun:test";
import { expireAll } from "@/deadline.ts";
import { Home, isAlive } from "@/home.ts";
let shared: Home, pids: number[];
beforeAll(() => void (shared = new Home()));
afterAll(() => shared[Symbol.asyncDispose]());
test("begins", async () => { await shared.start("kept", shared.script("kept.py", "import time; time.sleep(600)")); });
test("hangs", async () => {
  await using home = new Home();
  await home.start("sleeper", home.script("sleeper.py", "import time; print('said', flush=True); time.sleep(600)"));
  pids = [await home.daemonPid(), (await home.status("sleeper")).pid!];
  while ((await home.lines("sleeper")).length === 0);
  while (!readFileSync("/proc/" + pids[1] + "/stat", "latin1").includes(") S ")); // it has printed, and may not sleep yet
  expireAll();
  await new Promise(() => undefined);
});
test("goes on", async () => {
  expect(pids.map(isAlive)).toEqual([false, false]);
  expect((await shared.status("kept")).state).toBe("Running");
});
`);
  const said = stderr + stdout;
  expect(said).toContain('s: the test "hangs"');
  expect(said).toMatch(/sleeper +running/);
  expect(said).toMatch(/\d+ S python3 -u \S+sleeper\.py \(in [\w.]+\)/);
  expect(said).toContain("said");
  expect(said).toMatch(/ 2 pass\n 1 fail/);
  expect(status).toBe(1);
}, 120_000);

test("a condition that never holds is named", async () => {
  const error = await within(
    60_000,
    "outside",
    waitUntil(() => false, "the moon is blue", 10),
  ).catch((error: Error) => error);
  expect((error as Error).message).toMatch(/^not within \d+\.\d s: the moon is blue\nwaiting for: .*outside/);
});

test("a promise that comes in time is what it is", async () => {
  expect(await within(60_000, "seven", Promise.resolve(7))).toBe(7);
  expect(await within(60_000, "none", Promise.reject(new Error("no"))).catch((error: Error) => error.message)).toBe(
    "no",
  );
});

test("a home leaves no process behind, even of a daemon that was killed", async () => {
  const home = new Home();
  await home.start("left", home.script("left.py", "import time\ntime.sleep(600)\n"));
  const { pid } = await home.status("left");
  process.kill(await home.daemonPid(), "SIGKILL");
  home.kill();
  await waitUntil(() => !isAlive(pid!), "its worker is gone");
});

test("a skip is printed, and fails where all is required but for features of the kernel", async () => {
  const text = `
import { test } from "bun:test";
import { skipUnless } from "@/needs.ts";
test("tool", () => { skipUnless(false, "zsh", "completion in zsh"); });
test("kernel", () => { skipUnless(false, "IPv6", "connections by IPv6"); });
`;
  const lenient = await runTests(text);
  expect(lenient.status).toBe(0);
  expect(lenient.stdout).toContain("skipped: completion in zsh: no zsh here\n");
  const strict = await runTests(text, { IPCCTL_TEST_REQUIRE: "all" });
  expect(strict.status).toBe(1);
  expect(strict.stderr).toMatch(/ 1 pass\n 1 fail/);
  expect(strict.stdout).toContain("skipped: connections by IPv6: no IPv6 here\n");
});

test("no test is skipped but by skipUnless, nor looked for with a clock of its own", () => {
  const files = readdirSync(join(ROOT, "test"), { recursive: true, encoding: "utf8" });
  const bad = files
    .filter((file) => /\.(ts|py)$/.test(file) && !/^unit\/deadline\.test\.ts$|^needs\.ts$|needs\.py$/.test(file))
    .flatMap((file) =>
      readFileSync(join(ROOT, "test", file), "utf8")
        .split("\n")
        .filter((line) =>
          /log\(["`]skipped|print\(f?"skipped|\btest\.(skip|todo)\b|unittest\.skip|skipTest\(/.test(line),
        )
        .map((line) => `${file}: ${line.trim()}`),
    );
  expect(bad).toEqual([]);
});
