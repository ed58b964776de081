/** `ipcctl.eval` at the top of a program, per task; and in Python, per task and thread. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { join } from "node:path";
import { Home, outcomeOf, ROOT, waitUntil } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

async function run(code: string): Promise<{ stdout: string; stderr: string; status: number }> {
  const path = home.script(
    `program${Math.random()}.ts`,
    `import * as ipcctl from ${JSON.stringify(join(ROOT, "src/index.ts"))};\n${code}`,
  );
  const child = Bun.spawn([process.execPath, "--no-env-file", path], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  return await outcomeOf(child);
}

test("a program evaluates Python without a worker of its own, ends by itself, and leaves nothing", async () => {
  const { stdout, stderr, status } = await run(`
    console.log(await ipcctl.eval("2 + 2"));
    await ipcctl.exec("x = 20");
    console.log(await ipcctl.eval("x + 1"));
    console.log(await ipcctl.eval("nope").catch((error) => error.type));
    console.log(await ipcctl.eval("import asyncio; await asyncio.sleep(0.1, 'slept')"));
  `);
  expect({ stdout, stderr, status }).toEqual({ stdout: "4\n21\nNameError\nslept\n", stderr: "", status: 0 });
  await waitUntil(async () => JSON.parse((await home.cli("status", "--json")).stdout).length === 0, "it is deleted");
});

test("tasks do not see each other's names", async () => {
  const { stdout, stderr } = await run(`
    await ipcctl.exec("who = 'program'");
    const task = (name: string) => ipcctl.isolated(async () => {
      const before = await ipcctl.eval("'who' in globals()");
      await ipcctl.exec(\`who = '\${name}'\`);
      await new Promise((done) => setTimeout(done, 5));
      await Promise.all([ipcctl.exec("n = 1"), ipcctl.exec("m = 2")]);
      return [before, await ipcctl.eval("[who, n + m]")];
    });
    console.log(JSON.stringify(await Promise.all(["a", "b", "c"].map(task))));
    console.log(await ipcctl.eval("[who, 'n' in globals()]"));
    const worker = await ipcctl.defaultRuntime();
    console.log(await worker.eval("len(__import__('ipcctl._evaluate')._evaluate._namespaces)"));
    await ipcctl.closeDefaultRuntime();
    console.log(await ipcctl.eval("'who' in globals()"));
  `);
  expect(stderr).toBe("");
  expect(stdout).toBe('[[false,["a",3]],[false,["b",3]],[false,["c",3]]]\n[ "program", false ]\n1\nfalse\n');
});

test("what a killed program left in the list is taken away by the next one", async () => {
  await run(`await ipcctl.eval("1"); process.kill(process.pid, "SIGKILL");`);
  const list = async (): Promise<{ state: string }[]> => JSON.parse((await home.cli("status", "--json")).stdout);
  await waitUntil(async () => (await list()).every(({ state }) => state === "Stopped"), "its Python ended with it");
  expect((await run(`console.log(await ipcctl.eval("3"));`)).stdout).toBe("3\n");
  await waitUntil(async () => (await list()).length === 0, "nothing is left");
});

test("in Python: per thread, and per asyncio task", async () => {
  using ipc = new Ipcctl(await home.connect());
  const py = await ipc.start(
    home.script(
      "inside.py",
      `
import asyncio, threading
import ipcctl

@ipcctl.expose
def sync():
    ipcctl.exec("x = 1")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(ipcctl.eval("'x' in globals()")))
    thread.start(); thread.join()
    first = ipcctl.eval("x + 1")
    ipcctl.close_default_namespace()
    return [seen, first, ipcctl.eval("'x' in globals()")]

@ipcctl.expose
async def tasks():
    ipcctl.exec("x = 'outer'")
    async def one(name):
        before = ipcctl.eval("'x' in globals()")
        ipcctl.exec(f"x = {name!r}")
        await asyncio.sleep(0)
        return [before, ipcctl.eval("x"), await ipcctl.eval("import asyncio; await asyncio.sleep(0, x)")]
    return [await asyncio.gather(one("a"), one("b")), ipcctl.eval("x")]

ipcctl.serve()
`,
    ),
    { cwd: home.dir },
  );
  expect(await py.call("sync")).toEqual([[false], 2, false]);
  expect(await py.call("tasks")).toEqual([
    [
      [false, "a", "a"],
      [false, "b", "b"],
    ],
    "outer",
  ]);
});

test("a worker that ends while it starts says why", async () => {
  using ipc = new Ipcctl(await home.connect());
  const error = (await ipc
    .start(home.script("broken.py", "import surely_not_there"), { cwd: home.dir })
    .catch((error: unknown) => error)) as Error & { hint: string };
  expect(error.message).toBe("broken ended with exit code 1: ModuleNotFoundError: No module named 'surely_not_there'");
  expect(error.hint).toBe("ipcctl logs broken");
});
