import { expect, test } from "bun:test";
import { join } from "node:path";
import { Home } from "../home.ts";

test("a client written in Python that shares no code with us is served, and its garbage refused", async () => {
  await using home = new Home();
  (await home.connect()).close();
  const child = Bun.spawn(["python3", join(import.meta.dir, "client.py"), home.paths.socket, home.dir], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  expect(stdout.split("\n").filter((line) => !line.startsWith("ok "))).toEqual(["all ok", ""]);
  expect(stderr).toBe("");
}, 120_000);
