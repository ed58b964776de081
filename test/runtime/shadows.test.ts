/**
 * Files beside a script that are named like modules of Python, or like our package: they stay the script's, and we are
 * not led astray.
 */
import { expect, test } from "bun:test";
import { Ipcctl, type PythonWorker } from "ipcctl";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Home, ROOT, waitUntil, withDaemon } from "../home.ts";

/**
 * What the console or the package imports, at its start or later, as far as it does not come from within the
 * interpreter.
 */
const IMPORTED = [
  ..."array ast asyncio base64 bisect collections concurrent contextlib contextvars copyreg ctypes dataclasses datetime dis enum".split(
    " ",
  ),
  ..."errno fcntl fnmatch functools heapq importlib inspect ipaddress itertools json keyword linecache logging math mmap numbers".split(
    " ",
  ),
  ..."opcode operator platform queue random re reprlib select selectors signal socket ssl string struct subprocess textwrap".split(
    " ",
  ),
  ..."threading time token tokenize traceback types typing uuid warnings weakref".split(" "),
];
const BARE = "import sys, os, time\nx = 41\nprint('up', flush=True)\nwhile True: time.sleep(.05)\n";

/** Files that tell when they are run. */
function shadow(home: Home, folder: string, names: readonly string[]): string {
  mkdirSync(folder, { recursive: true });
  const marks = join(home.dir, "run");
  for (const name of names)
    writeFileSync(
      join(folder, `${name}.py`),
      `import os\nos.close(os.open(${JSON.stringify(marks)} + "-${name}", os.O_CREAT | os.O_WRONLY))\nMINE = True\n`,
    );
  return folder;
}

/** However slow the machine is. */
const open = (ipc: Ipcctl, name: string): Promise<PythonWorker> => ipc.worker(name, 100_000);

const ran = (home: Home): string[] =>
  [...new Bun.Glob("run-*").scanSync(home.dir)].map((path) => path.slice(4)).toSorted();
const isUp = (home: Home, name: string): Promise<void> =>
  waitUntil(async () => (await home.cli("logs", name, "-n", "50")).stdout.includes("up"), `${name} is up`);

test("no file beside an unmodified script is run by the console, which works as ever", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const folder = shadow(home, join(home.dir, "beside"), IMPORTED);
    writeFileSync(join(folder, "base.py"), BARE);
    await home.start("base", join(folder, "base.py"));
    await isUp(home, "base");
    const base = await open(ipc, "base");
    expect(await base.eval("x + 1")).toBe(42);
    const theirs = "sorted(name for name, one in sys.modules.items() if getattr(one, 'MINE', False))";
    expect(await base.eval(`import sys\n${theirs}`)).toEqual([]);
    let text = "";
    await base.eval("print('out')", { onOutput: (_, piece) => void (text += piece) });
    expect(text).toBe("out\n");
    expect(((await base.eval("1 / 0").catch((error: unknown) => error)) as Error).message).toContain("division");
    expect(ran(home)).toEqual([]);
    // Code of the script's still finds what lies beside the script, and nothing that we have left.
    expect(await base.eval("import json, asyncio; json.MINE and asyncio.MINE")).toBe(true);
    expect(ran(home)).toEqual(["asyncio", "json"]);
    expect(await base.eval("__import__('ipcctl').eval('x', ) if False else 'again'")).toBe("again");
  });
});

test("a module of the script's that has the name of a standard one stays the script's, and the package works beside it", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const names = ["asyncio", "datetime", "inspect", "json", "select", "socket", "traceback", "uuid"];
    const folder = shadow(home, join(home.dir, "beside"), names);
    const script = join(folder, "serving.py");
    writeFileSync(
      script,
      `import asyncio, inspect, json, select, socket, traceback
import ipcctl, sys
@ipcctl.expose
def names() -> list[str]:
    # What an interpreter has built in, as Debian's has select, no file can stand in for.
    names = {"asyncio", "inspect", "json", "select", "socket", "traceback"} - set(sys.builtin_module_names)
    return [name for name in names if not sys.modules[name].MINE]
@ipcctl.expose
def fails() -> None:
    raise ValueError("as it should")
@ipcctl.expose
async def later(x: int) -> int:
    return x + 1
ipcctl.serve()
`,
    );
    await home.start("serving", script);
    const serving = await open(ipc, "serving");
    expect(await serving.call("names")).toEqual([]);
    expect(await serving.call("later", 1)).toBe(2);
    const error = (await serving.call("fails").catch((one: unknown) => one)) as Error;
    expect(error.message).toContain("as it should");
    // A date, by our own datetime.
    expect(await serving.call("later", new Date(0)).catch(() => "refused")).toBe("refused");
    const found = ran(home);
    const builtIn = await serving.eval<string[]>("__import__('sys').builtin_module_names");
    const shadowed = ["asyncio", "inspect", "json", "select", "socket", "traceback"];
    expect(found).toEqual(shadowed.filter((name) => !builtIn.includes(name)));
  });
});

test("without such files nothing is ours alone: the script and the package share every module", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    await home.start("plain", home.script("plain.py", BARE));
    const plain = await open(ipc, "plain");
    const code = `import sys, asyncio, json
from ipcctl import _bound, _types
(_bound.asyncio is asyncio, _types.json is json, __import__("importlib").import_module("ipcctl._bound") is _bound, [name for name in sys.modules if name.startswith("ipcctl:")])`;
    expect(await plain.eval(code)).toEqual([true, true, true, []]);
  });
});

const SERVE = `import ipcctl
@ipcctl.expose
def add(a: int, b: int) -> int:
    return a + b
ipcctl.serve()
`;

test("a folder called ipcctl beside the script is not taken for the package", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const folder = join(home.dir, "beside");
    mkdirSync(join(folder, "ipcctl", "logs"), { recursive: true });
    writeFileSync(join(folder, "worker.py"), SERVE);
    writeFileSync(join(folder, "base.py"), BARE);
    await home.start("worker", join(folder, "worker.py"));
    await home.start("base", join(folder, "base.py"));
    const worker = await open(ipc, "worker");
    expect(await worker.call("add", 1, 2)).toBe(3);
    const base = await open(ipc, "base");
    expect(await base.eval("x")).toBe(41);
    expect(await base.eval("import ipcctl; ipcctl.serve.__module__")).toBe("ipcctl");
  });
});

test("nor is a file ipcctl.py that cannot serve; a script of that name finds the package, and start warns of it", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const folder = join(home.dir, "beside");
    mkdirSync(folder);
    writeFileSync(join(folder, "ipcctl.py"), "note = 'mine'\n");
    writeFileSync(join(folder, "worker.py"), SERVE);
    await home.start("worker", join(folder, "worker.py"));
    const worker = await open(ipc, "worker");
    expect(await worker.call("add", 1, 2)).toBe(3);
    const { status, stderr } = await home.cli("start", home.script("ipcctl.py", SERVE));
    expect([status, stderr]).toEqual([0, expect.stringContaining("rename it")]);
    const itself = await open(ipc, "ipcctl");
    expect(await itself.call("add", 1, 2)).toBe(3);
  });
});

test("an ipcctl that the user has installed is the one that is used, by the console as well", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const other = join(home.dir, "other");
    mkdirSync(join(other, "ipcctl"), { recursive: true });
    writeFileSync(join(other, "ipcctl", "__init__.py"), "def serve(): pass\n");
    writeFileSync(
      join(other, "ipcctl", "_console.py"),
      "def serve():\n    print('other console', flush=True)\ndef on_signal(): pass\n",
    );
    await home.start("base", home.script("base.py", BARE), { env: { PYTHONPATH: other } });
    await isUp(home, "base");
    const asked = open(ipc, "base").catch((error: unknown) => error);
    await waitUntil(async () => (await home.cli("logs", "base")).stdout.includes("other console"), "it is asked");
    await home.cli("delete", "base");
    await asked;
  });
});

test("also where a client comes while the script is just importing it", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const folder = join(home.dir, "other", "ipcctl");
    mkdirSync(folder, { recursive: true });
    const ours = join(ROOT, "python", "ipcctl");
    for (const name of new Bun.Glob("*.py").scanSync(ours))
      if (name !== "__init__.py") symlinkSync(join(ours, name), join(folder, name));
    // Until the console's thread waits for this import, or serves without it.
    const late = `def _wait():
    import sys, time
    def names(frame):
        while frame is not None:
            yield frame.f_code.co_name
            frame = frame.f_back
    while not any({"acquire", "serve_if_free"} & set(names(frame)) for frame in sys._current_frames().values()):
        time.sleep(.001)
    print("waited", flush=True)
_wait()
`;
    const [head, ...rest] = readFileSync(join(ours, "__init__.py"), "utf8").split(/(?<=import annotations\n)/);
    writeFileSync(join(folder, "__init__.py"), [head, late, ...rest].join(""));
    const script = home.script("late.py", SERVE);
    await home.start("late", script, { env: { PYTHONPATH: join(home.dir, "other") } });
    const worker = await open(ipc, "late");
    expect((await home.cli("logs", "late")).stdout).toContain("waited");
    expect(await worker.call("add", 1, 2)).toBe(3);
  });
});

test("a console that cannot start says why, at once and to everyone", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    // As where the standard library is incomplete, which some distributions ship.
    const broken = `import sys, os, time
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, path=None, target=None: None if name == "selectors" else find(name, path, target))
${BARE}`;
    await home.start("broken", home.script("broken.py", broken));
    await isUp(home, "broken");
    for (let i = 0; i < 2; i++) {
      const error = (await open(ipc, "broken").catch((one: unknown) => one)) as Error;
      expect(error.message).toContain("broken cannot let ipcctl in: ModuleNotFoundError: No module named 'selectors'");
    }
    const { status, stderr } = await home.cli("eval", "broken", "x");
    expect([status, stderr]).toEqual([
      1,
      expect.stringContaining("broken cannot let ipcctl in: ModuleNotFoundError: No module named 'selectors'"),
    ]);
  });
});
