/** Release folders are swapped: who stands in one that was deleted can still see and end what runs. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Home, outcomeOf, ROOT, waitUntil, type CliResult } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

/** What the shell itself has to say of such a folder, before it reads the first line of a script. */
let ofTheShell = "";

/** In a folder that is deleted before the command begins. */
async function inDeletedFolder(...command: string[]): Promise<CliResult> {
  const script = 'mkdir gone && cd gone && rmdir ../gone && "$@"';
  const child = Bun.spawn(["sh", "-c", script, "sh", ...command], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const { stderr, ...rest } = await outcomeOf(child);
  return { ...rest, stderr: stderr.replace(ofTheShell, "") };
}

const cli = (...args: string[]): Promise<CliResult> => inDeletedFolder(join(ROOT, "bin/ipcctl"), ...args);

test("in a deleted folder everything works that names nothing in it", async () => {
  ofTheShell = (await inDeletedFolder("sh", "-c", ":")).stderr;
  const script = home.script("up.py", "import os, time\nprint('up in', os.getcwd(), flush=True)\ntime.sleep(600)\n");
  const brief = home.script("brief.py", "print('brief')\n");
  expect((await cli("status")).status).toBe(0);
  expect(await cli("start", script)).toEqual({ status: 0, stdout: expect.stringMatching(/^started up /), stderr: "" });
  await waitUntil(async () => (await cli("logs", "up")).stdout === "up in /\n", "it says where it is");
  for (const args of [["status"], ["status", "--json"], ["list"], ["describe", "up"], ["logs", "up"], ["audit"]])
    expect(await cli(...args)).toMatchObject({ status: 0, stderr: "" });
  expect(await cli("restart", "up")).toMatchObject({ status: 0, stderr: "" });
  expect(await cli("stop", "up")).toMatchObject({ status: 0, stderr: "" });
  expect(await cli("start", "up")).toMatchObject({ status: 0, stderr: "" });
  expect(await cli("delete", "up", "-f")).toMatchObject({ status: 0, stderr: "" });
  expect(await cli("run", brief)).toEqual({ status: 0, stdout: "brief\n", stderr: "" });
  expect(await cli("run", "-c", "print(6 * 7)")).toEqual({ status: 0, stdout: "42\n", stderr: "" });
  expect(await cli("policy", "explain", "strict")).toMatchObject({ status: 0, stderr: "" });
  expect(await cli("daemon", "status")).toMatchObject({ status: 0, stderr: "" });
});

test("in a deleted folder a relative path is refused, and the reason is said", async () => {
  for (const [name, ...args] of [
    ["rel.py", "start", "rel.py"],
    ["rel.py", "run", "rel.py"],
    ["rel.py", "types", "rel.py"],
    ["apps.json", "start", "--config", "apps.json"],
    ["sub", "run", "--cwd", "sub", "-c", "pass"],
    ["x.env", "start", "--env-file", "x.env", "--command", "true"],
    ["./my.json", "run", "--policy", "./my.json", "-c", "pass"],
    ["data", "run", "--allow-read", "data", "-c", "pass"],
    ["rel.sock", "--socket", "rel.sock", "status"],
    ["ipcctl.json", "init"],
    [".", "start"],
  ]) {
    const { status, stderr } = await cli(...args);
    expect({ args, status, stderr }).toEqual({
      args,
      status: 2,
      stderr: `ipcctl: "${name}" is a relative path, and the working directory was deleted\n  change to another folder, or give an absolute path\n`,
    });
  }
});
