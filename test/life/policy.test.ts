/** `policy explain` and `policy check` say what `start` says, and where libraries keep their caches. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { withDaemon } from "../home.ts";

/** What it says of the network and of files, without what the machine enforces it by. */
const granted = (text: string): string[] => text.split("\n").filter((line) => line.startsWith("+"));

test("explain takes the exceptions of start", async () => {
  await withDaemon(async (home) => {
    const folder = join(home.dir, "out");
    mkdirSync(folder);
    const plain = await home.cli("policy", "explain", "strict");
    const listening = await home.cli("policy", "explain", "strict", "--allow-listen=9000");
    expect([plain.status, listening.status, listening.stderr]).toEqual([0, 0, ""]);
    expect(granted(plain.stdout).join()).not.toContain("9000");
    expect(listening.stdout).toContain("9000");
    const more = await home.cli("policy", "explain", "strict", "--allow-net=h.test:443", "--allow-write", folder);
    expect(more.stdout).toContain("h.test:443");
    expect(more.stdout).toContain(folder);
    const script = home.script("one.py", "");
    expect((await home.cli("policy", "explain", "strict", script)).stdout).toContain(script);
  });
});

test("check and explain refuse what start refuses, in its words", async () => {
  await withDaemon(async (home) => {
    const venv = join(home.dir, "project/.venv/bin");
    mkdirSync(venv, { recursive: true });
    const script = join(home.dir, "project/app.py");
    writeFileSync(script, "");
    const policy = home.script(
      "own.json",
      JSON.stringify({ version: 1, extends: "strict", files: { write: [home.dir] } }),
    );
    for (const [name, ...flags] of [
      [policy], // covers the policy and the state folder
      ["strict", "--allow-write", home.dir],
      ["strict", "--allow-write", join(home.dir, "missing")],
      ["strict", "--allow-net=nowhere"],
      ["strict", "--allow-listen=70000"],
      ["strict", "--interpreter", "/bin/sh -x", "--allow-read", join(home.dir, "missing")],
    ] as const) {
      const started = await home.cli("start", script, "--policy", name, ...flags);
      expect(started.status).not.toBe(0);
      for (const verb of ["explain", "check"])
        expect(await home.cli("policy", verb, name, script, ...flags)).toEqual({ ...started, stdout: "" });
      await home.cli("delete", "app");
    }
    // Also without a script: what covers the state folder covers it whatever is started.
    expect((await home.cli("policy", "check", policy)).stderr).toContain("by which the worker is started or watched");
    expect((await home.cli("policy", "check", "strict", script)).status).toBe(0);
  });
});

test("under read-only caches go to the scratch folder, unless the definition says otherwise", async () => {
  await withDaemon(async (home) => {
    const script = home.script(
      "caches.py",
      `import os
for name in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
    os.makedirs(os.environ[name], exist_ok=True)
    open(os.path.join(os.environ[name], "probe"), "w").close()
    print(name, os.environ[name].startswith(os.environ["TMPDIR"]))
`,
    );
    const env = { ...home.env, HOME: "/root" };
    Object.assign(home.env, env);
    const { stdout, stderr } = await home.cli("run", "--policy", "read-only", script);
    expect([stdout, stderr]).toEqual(["MPLCONFIGDIR True\nNUMBA_CACHE_DIR True\nXDG_CACHE_HOME True\n", ""]);
    const own = await home.cli(
      "run",
      "--policy",
      "read-only",
      "-e",
      "NUMBA_CACHE_DIR=/x",
      "-c",
      "import os; print(os.environ['NUMBA_CACHE_DIR'])",
    );
    expect(own.stdout).toBe("/x\n");
    const open = await home.cli(
      "run",
      "--policy",
      "no-network",
      "-c",
      "import os; print(os.environ.get('NUMBA_CACHE_DIR'))",
    );
    expect(open.stdout).toBe("None\n");
  });
});
