/** Interrupts in a worker whose main thread belongs to a web server, with serve() in a thread beside it. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Ipcctl, type IpcError, type PythonWorker } from "ipcctl";
import { join } from "node:path";
import { Home, isAlive, ROOT, waitUntil, within, workerPrelude } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { pythonWithServers } from "../packages.ts";
import { failure, soon } from "./rounds.ts";

/** The grace that a worker has to end by itself before it is killed. */
const GRACE_MS = 60_000;

/** Each kind of work counts as long as it goes on. */
const WORK = `${workerPrelude()}
import asyncio, faulthandler, signal, threading, time
import ipcctl
faulthandler.register(signal.SIGUSR2, all_threads=True)

counts = {}

def count(mark): counts[mark] = counts.get(mark, 0) + 1

@ipcctl.expose
def loop(mark):
    while True: count(mark)

@ipcctl.expose
def sleeps(mark):
    while True:
        count(mark)
        time.sleep(0.02)

@ipcctl.expose
async def naps(mark):
    while True:
        count(mark)
        await asyncio.sleep(0.001)

@ipcctl.expose
def streams(mark):
    yield 1
    while True: count(mark)

@ipcctl.expose
async def trickles(mark):
    yield 1
    while True:
        count(mark)
        await asyncio.sleep(0.001)

@ipcctl.expose
async def waits(gate): # another client's
    while gate not in gates: await asyncio.sleep(0.001)
    return gate

gates = set()

@ipcctl.expose
def open_gate(gate): gates.add(gate)

@ipcctl.expose
def add(a, b=1): return a + b

@ipcctl.expose
def counted(): return counts

def serve_beside(port):
    def taken(): return port
    ipcctl.expose(name="port")(taken)
    threading.Thread(target=ipcctl.serve, daemon=True).start()
`;

/** Each takes a port itself, and answers from the main thread's server with what the work has counted. */
const SERVERS: Record<string, string> = {
  FastAPI: `${WORK}
import contextlib, fastapi, socket, uvicorn
@contextlib.asynccontextmanager
async def lifespan(_):
    yield
    print("the server has ended", flush=True)
app = fastapi.FastAPI(lifespan=lifespan)

@app.get("/")
async def index(): return {"counted": sum(counts.values())}

@app.get("/thread")
def in_a_thread(): return {"counted": sum(counts.values())}

listening = socket.create_server(("127.0.0.1", 0))
serve_beside(listening.getsockname()[1])
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])
`,
  Flask: `${WORK}
import flask, logging, sys
from werkzeug.serving import make_server
app = flask.Flask(__name__)
logging.getLogger("werkzeug").setLevel(logging.ERROR)

@app.get("/")
def index(): return {"counted": sum(counts.values())}

@app.get("/thread")
def in_a_thread(): return index()

server = make_server("127.0.0.1", 0, app, threaded=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
serve_beside(server.server_port)
try: server.serve_forever()
finally: print("the server has ended", flush=True)
`,
};

type Kind = "loop" | "sleeps" | "naps" | "streams" | "trickles";
const KINDS: readonly Kind[] = ["loop", "sleeps", "naps", "streams", "trickles"];
const isStream = (kind: Kind): boolean => kind === "streams" || kind === "trickles";

let home: Home;
let python: string | undefined;
beforeAll(async () => {
  home = new Home();
  python = await pythonWithServers();
  skipUnless(python !== undefined, "FastAPI, uvicorn and Flask from PyPI", "serve() beside a web server");
}, 300_000);
afterAll(() => home[Symbol.asyncDispose]());

/** Asks the web server without a pause until it is disposed of. All that did not give 200 is in `faults`. */
function visitor(url: string): { answers: () => number; faults: string[]; leave: () => Promise<void> } {
  const faults: string[] = [];
  let answers = 0;
  let goesOn = true;
  const visits = ["/", "/thread"].map(async (path) => {
    while (goesOn && faults.length === 0)
      try {
        const answer = await fetch(url + path, { signal: AbortSignal.timeout(30_000), keepalive: false });
        await answer.text();
        if (answer.status === 200) answers++;
        else faults.push(`${path} gave ${answer.status}`);
      } catch (error) {
        faults.push(`${path} failed: ${String(error)}`);
      }
  });
  return {
    answers: () => answers,
    faults,
    async leave() {
      goesOn = false;
      await Promise.all(visits);
    },
  };
}

/** A request of this kind. `ended` is how it fails. */
function begin(
  worker: PythonWorker,
  kind: Kind,
  mark: string,
  options: { timeout?: number; signal?: AbortSignal } = {},
): Promise<Error> {
  if (!isStream(kind)) return failure(worker.callWith(kind, [mark], options));
  const reading = async (): Promise<void> => {
    for await (const item of worker.streamWith(kind, [mark], options)) expect(item).toBe(1);
  };
  return failure(reading());
}

/** A client in a program of its own, which is killed, or ends, in the midst of its request. */
function program(name: string, kind: Kind, mark: string): Bun.Subprocess {
  const path = home.script(`${mark}.ts`, `import { connect } from ${JSON.stringify(join(ROOT, "src/index.ts"))};
const ipc = await connect();
const w = await ipc.worker(${JSON.stringify(name)});
${isStream(kind) ? `for await (const _ of w.stream("${kind}", "${mark}"));` : `await w.call("${kind}", "${mark}");`}
`); // prettier-ignore
  return Bun.spawn([process.execPath, "--no-env-file", path], {
    env: home.env,
    stdio: ["ignore", "ignore", "inherit"],
  });
}

test("the main thread is the script's, though a client came before the script imported threading", async () => {
  using ipc = new Ipcctl(await home.connect(), () => home.connect());
  const script = home.script("first.py", `import sys, time
while "threading" not in sys.modules: time.sleep(0.001)  # the console's thread was first
import threading
is_main = threading.current_thread() is threading.main_thread()
while True: time.sleep(600)
`); // prettier-ignore
  using worker = await ipc.start(script, {
    cwd: home.dir,
    restart_policy: "no",
    ...(python === undefined ? {} : { interpreter: python }), // which has not imported it by itself
  });
  await waitUntil(async () => (await worker.eval("'is_main' in globals()")) === true, "it is imported");
  expect(await worker.eval("is_main")).toBe(true);
});

describe.each(Object.keys(SERVERS))("serve() in a thread beside %s", (server) => {
  test("what is given up ends and stops, nothing else does, and the web server goes on until it is stopped", async () => {
    if (python === undefined) return;
    using ipc = new Ipcctl(await home.connect(), () => home.connect());
    const name = server.toLowerCase();
    using worker = await ipc.start(home.script(`beside-${name}.py`, SERVERS[server]!), {
      name,
      cwd: home.dir,
      interpreter: python,
      policy: "trusted", // it has the network
      restart_policy: "no",
      stop_timeout: GRACE_MS,
    });
    using other = await ipc.worker(name);
    const { pid } = await home.status(name);
    // Prettier-ignore.
    const answers = (promise: Promise<unknown>): Promise<boolean> =>
      promise.then(
        () => true,
        () => false,
      );
    await waitUntil(() => answers(worker.call("port")), "it serves"); // its imports may take longer than a call waits
    const url = `http://127.0.0.1:${String(await worker.call("port"))}`;
    // Prettier-ignore.
    await waitUntil(
      () =>
        fetch(url).then(
          (answer) => answer.ok,
          () => false,
        ),
      "the web server answers",
    );
    const visits = visitor(url);
    const hasBeenVisited = async (): Promise<void> => {
      const before = visits.answers();
      await waitUntil(() => visits.answers() > before + 2 || visits.faults.length > 0, "the web server answers");
      expect(visits.faults).toEqual([]);
    };

    /** The web server tells whether it goes on while the serving thread is busy. */
    const counted = async (): Promise<number> => ((await (await fetch(url)).json()) as { counted: number }).counted;
    const runs = async (): Promise<void> => {
      const before = await counted();
      await waitUntil(async () => (await counted()) > before, "it runs");
    };
    /** It no longer counts, and keeps nobody waiting. */
    const stops = async (mark: string): Promise<void> => {
      const answer = soon("the worker is free", other.call("add", 1)).catch(async (error: unknown) => {
        process.kill(pid!, "SIGUSR2");
        const threads = (): Promise<string[]> => home.errorLines(name);
        await waitUntil(async () => (await threads()).some((line) => line.includes("in <module>")), "its threads");
        console.error((await threads()).join("\n")); // what each of them does
        throw error;
      });
      expect(await answer).toBe(2);
      const count = async (): Promise<number> => (await other.call<Record<string, number>>("counted"))[mark]!;
      await waitUntil(async () => {
        const before = await count();
        await hasBeenVisited();
        return before > 0 && before === (await count());
      }, `${mark} stops`);
    };

    const kept = other.call("waits", "end"); // an async function lets others run beside it
    let isKept = true;
    void kept.catch(() => undefined).then(() => (isKept = false));
    for (const kind of KINDS) {
      const late = begin(worker, kind, `late-${kind}`, { timeout: 1000 });
      await runs();
      expect(((await soon(`the deadline of ${kind}`, late)) as IpcError).code).toBe("DEADLINE");
      await stops(`late-${kind}`);

      const controller = new AbortController();
      const given = begin(worker, kind, `given-${kind}`, { signal: controller.signal });
      await runs();
      controller.abort(new Error("given up"));
      expect((await soon(`the abort of ${kind}`, given)).message).toBe("given up");
      expect(await worker.hasStopped(15_000)).toBe(true);
      await stops(`given-${kind}`);

      const closing = await ipc.worker(name);
      const closed = begin(closing, kind, `closed-${kind}`);
      await runs();
      closing[Symbol.dispose]();
      await soon(`the close under ${kind}`, closed);
      await stops(`closed-${kind}`);

      const child = program(name, kind, `killed-${kind}`);
      try {
        await waitUntil(async () => {
          const before = await counted();
          return child.exitCode !== null || (await counted()) > before;
        }, "its request runs");
      } finally {
        child.kill("SIGKILL");
      }
      await stops(`killed-${kind}`);
      expect(isKept).toBe(true);
    }
    await other.call("open_gate", "end");
    expect(await soon("what nobody gave up", kept)).toBe("end");
    expect(await worker.hasStopped(0)).toBe(true);
    await hasBeenVisited();
    await visits.leave();
    expect(visits.faults).toEqual([]);
    expect(await home.status(name)).toMatchObject({ pid, restarts: 0, state: "Running" });
    expect(await home.errorLines(name)).toEqual([]); // no traceback

    // It is stopped in the midst of a call, by the web server's own handler, and not killed.
    const last = begin(other, "sleeps", "last");
    await runs();
    expect((await home.cli("stop", name)).status).toBe(0);
    await within(15_000, "the last call", last);
    await waitUntil(() => !isAlive(pid!), "it has ended");
    expect((await home.lines(name)).at(-1)).toBe("the server has ended");
    expect((await home.status(name)).last_exit_signal).not.toBe("SIGKILL");
  }, 180_000);
});
