/** What reaches a terminal of what a worker prints. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { ROOT, waitUntil, within, withDaemon } from "../home.ts";

test("on a terminal what a worker printed is shown but for its colours, and as it is with --raw", async () => {
  await withDaemon(async (home) => {
    const printed = "\\x1b]0;title\\x07\\x1b[2J\\x1b[31mred\\x1b[0m\\x9b2J";
    await home.start("loud", home.script("loud.py", `print("${printed}", flush=True)\nimport time; time.sleep(600)\n`));
    await waitUntil(async () => (await home.cli("logs", "loud")).stdout.includes("title"), "it has printed");
    const onTerminal = async (...flags: string[]): Promise<string> => {
      const command = [join(ROOT, "bin/ipcctl"), "logs", "loud", ...flags];
      const spawn = `import pty; pty.spawn(${JSON.stringify(command)})`;
      const child = Bun.spawn(["python3", "-c", spawn], { env: home.env, stdin: "ignore", stdout: "pipe" });
      return await within(120_000, "logs on a terminal", new Response(child.stdout).text());
    };
    const shown = await onTerminal();
    expect(shown).toContain("\\x1b]0;title\\x07\\x1b[2J\u001b[31mred\u001b[0m");
    expect(shown).not.toContain("\u001b]0;");
    expect(await onTerminal("--raw")).toContain("\u001b]0;title\u0007\u001b[2J\u001b[31mred");
  });
});
