/** `fetch` and `readFile`: what they reach, and what they do not. */
import { expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { join } from "node:path";
import { mkdirSync, writeFileSync } from "node:fs";
import { LIMITS } from "../../contract/limits.ts";
import { withDaemon, workerPrelude } from "../home.ts";
import { hasTool, skipUnless } from "../needs.ts";
import { environment, testCases } from "./cases.ts";

testCases("reach.py");
if (!skipUnless(await hasTool("openssl", "openssl"), "openssl", "fetch over TLS")) testCases("secure.py");

test("fetchConnections, fetchRedirects and fetchHeadBytes are as the cases have them", () => {
  const { fetchConnections, fetchRedirects, fetchHeadBytes } = LIMITS;
  expect([fetchConnections, fetchRedirects, fetchHeadBytes].map(({ value }) => value)).toEqual([64, 20, 65_536]);
});

const ASK = `
import asyncio, json, sys
import ipcctl.js as js

def ask(settings, codes):
    async def all():
        told = []
        with js.Runtime(js.RuntimeConfig(**settings)) as runtime:
            for code in codes:
                try:
                    told.append(await runtime.eval_async(code, timeout=10))
                except Exception as error:
                    told.append(str(error))
        return told
    return asyncio.run(all())
`;

function serving(): ReturnType<typeof Bun.serve> {
  return Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("here") });
}

test("they are the same in a runtime that is a worker of the daemon", async () => {
  await withDaemon(async (home) => {
    using _ = new Ipcctl(await home.connect()); // it is there
    using server = serving();
    const folder = join(home.dir, "shown");
    mkdirSync(folder);
    writeFileSync(join(folder, "one"), "1");
    const settings = { daemon: true, allow_net: [`127.0.0.1:${server.port}`], allow_read: [folder] };
    const codes = [
      `fetch("http://127.0.0.1:${server.port}").then((r) => r.text())`,
      `fetch("http://127.0.0.1:1").then((r) => r.text())`,
      `readFile("${folder}/one", "utf8")`,
      `readFile("/etc/passwd", "utf8")`,
    ];
    const program = `${ASK}\nprint(json.dumps(ask(*json.loads(sys.argv[1]))))`;
    const child = Bun.spawn(["python3", "-c", program, JSON.stringify([settings, codes])], {
      env: { ...environment, ...home.env, PYTHONPATH: environment.PYTHONPATH },
      stdio: ["ignore", "pipe", "inherit"],
    });
    expect(JSON.parse(await child.stdout.text())).toEqual([
      "here",
      expect.stringContaining('allow_net=["127.0.0.1:1"]'),
      "1",
      expect.stringContaining("/etc/passwd"),
    ]);
  });
});

test("in a confined worker a runtime reaches and reads what it was given of what the worker may", async () => {
  await withDaemon(async (home) => {
    using server = serving();
    using other = serving();
    const folder = join(home.dir, "shown");
    mkdirSync(folder);
    writeFileSync(join(folder, "one"), "1");
    const [host, foreign] = [`127.0.0.1:${server.port}`, `127.0.0.1:${other.port}`];
    const script = home.script(
      "asker.py",
      `${workerPrelude()}\nimport ipcctl\n${ASK}\nipcctl.expose(ask)\nipcctl.serve()`,
    );
    const allow = { net: [host, foreign], read: [folder], runtimes: 2 };
    await home.start("asker", script, { policy: "strict", allow, restart_policy: "no" });
    using ipc = new Ipcctl(await home.connect());
    using worker = await ipc.worker("asker");
    const codes = [`fetch("http://${host}").then((r) => r.text())`, `fetch("http://${foreign}").then((r) => r.text())`];
    const files = [`readFile("${folder}/one", "utf8")`, `readFile("${script}", "utf8")`];
    const settings = { allow_net: [host], allow_read: [folder] };
    expect(await worker.callWith("ask", [settings, [...codes, ...files]], {})).toEqual([
      "here",
      expect.stringContaining(foreign),
      "1",
      expect.stringContaining(script),
    ]);
    expect(await worker.callWith("ask", [{}, ["typeof fetch + typeof readFile"]], {})).toEqual(["undefinedundefined"]);
  });
});
