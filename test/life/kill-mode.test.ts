/**
 * A stop ends the work, not the jobs: programs that finish what they have begun are asked as they expect it, whoever
 * stops them.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Home, isAlive, waitUntil } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { pythonWithServers } from "../packages.ts";

let home: Home;
let servers: string | undefined;
beforeAll(async () => {
  home = new Home();
  servers = await pythonWithServers();
  skipUnless(servers !== undefined, "Celery and gunicorn from PyPI", "programs that finish what they have begun");
}, 300_000);
afterAll(() => home[Symbol.asyncDispose]());

/**
 * Every program here says with a file that its job is under way, and that it was asked to end; the job waits for a
 * third one.
 */
const PRELUDE = `
import os, signal, sys, time
me = os.getpid()
def note(what): open(f"{what}-{me}", "w").close()
def work():
    note("begun")
    while not os.path.exists(f"go-{me}"): time.sleep(0.01)
def ask(*_, **__): note("asked")
`;

/** Forks the job, which has no handler, and waits for it when it is asked to end. */
const WORK_HORSE = `${PRELUDE}
signal.signal(signal.SIGTERM, ask)
horse = os.fork()
if horse == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    work()
    print("job done", me, flush=True)
    os._exit(0)
os.waitpid(horse, 0)
print("finished", me, flush=True)
`;

const POOL = `${PRELUDE}
import concurrent.futures
def job(number):
    work()
    return number
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, ask)
    context = __import__("multiprocessing").get_context("fork")
    def quiet(): signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with concurrent.futures.ProcessPoolExecutor(2, context, quiet) as pool:
        for done in [pool.submit(job, number) for number in range(2)]:
            print("result", done.result(), flush=True)
    print("finished", me, flush=True)
`;

const CELERY = `${PRELUDE}
import celery
from celery.signals import worker_init, worker_shutting_down
os.makedirs("queue", exist_ok=True)
app = celery.Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
worker_shutting_down.connect(ask, weak=False)
@app.task
def slow(number):
    work()
    note(f"done-{number}")
`;

/**
 * Begins a stop by some means while the job of the worker is under way, and lets the job end once the worker was asked
 * to.
 */
async function stopsAt(name: string, by: () => Promise<unknown>, asked = "asked"): Promise<number> {
  const { pid } = await home.status(name);
  await waitUntil(() => existsSync(join(home.dir, `begun-${pid}`)), `the job of ${name} is under way`);
  let isDone = false;
  const done = by().finally(() => (isDone = true));
  await waitUntil(() => existsSync(join(home.dir, `${asked}-${pid}`)), `${name} is asked to end`);
  // And in a reload the instance that stood in meanwhile, unless that has ended before it could have a job.
  const goOn = (): void => {
    for (const file of readdirSync(home.dir))
      if (file.startsWith(`${asked}-`)) writeFileSync(join(home.dir, file.replace(asked, "go")), "");
  };
  await waitUntil(() => (goOn(), isDone), `${name} is asked, and those beside it`);
  await done;
  await waitUntil(() => !isAlive(pid!), `${name} has ended`);
  return pid!;
}

/** All that it has printed. */
const output = async (name: string): Promise<string> => (await home.cli("logs", name, "-n", "all")).stdout;

const MANNERS: Record<string, (name: string) => Promise<unknown>> = {
  stop: (name) => home.cli("stop", name),
  restart: (name) => home.cli("restart", name),
  reload: (name) => home.cli("reload", name),
  "a signal to the shim": async (name) => process.kill((await home.status(name)).shim_pid!, "SIGTERM"),
  "a failing health check": async () => writeFileSync(join(home.dir, "sick"), ""),
  "the end of its time": () => Promise.resolve(),
  "daemon stop": () => home.cli("daemon", "stop"),
};

test.each(Object.keys(MANNERS))("a job that the worker waits for is finished under: %s", async (manner) => {
  const name = `horse-${manner.replaceAll(" ", "-")}`;
  const policy = join(home.dir, "wall.json");
  writeFileSync(policy, JSON.stringify({ version: 1, extends: "trusted", limits: { wallSeconds: 1 } }));
  await home.start(name, home.script("horse.py", WORK_HORSE), {
    restart_policy: "no",
    stop_timeout: 60_000,
    ...(manner === "the end of its time" ? { policy } : {}),
    ...(manner === "a failing health check"
      ? { health_check: { check_type: { type: "exec", command: "test", args: ["!", "-e", "sick"] }, interval: 20 } }
      : {}),
  });
  const pid = await stopsAt(name, () => MANNERS[manner]!(name));
  await waitUntil(async () => (await home.lines(name)).includes(`finished ${pid}`), "its last line is in the log");
  expect(await home.lines(name)).toContain(`job done ${pid}`);
  await home.cli("delete", name, "-f");
});

test.each(["stop", "restart", "reload"])("a pool of processes finishes its jobs under %s", async (verb) => {
  await home.start("pool", home.script("pool.py", POOL), { restart_policy: "no", stop_timeout: 60_000 });
  const pid = await stopsAt("pool", () => home.cli(verb, "pool"));
  const lines = await home.lines("pool");
  expect(lines.slice(0, lines.indexOf(`finished ${pid}`))).toEqual(["result 0", "result 1"]);
  await home.cli("delete", "pool", "-f");
});

test.each(["stop", "restart", "reload"])("Celery finishes its tasks under %s", async (verb) => {
  if (servers === undefined) return;
  const name = `celery-${verb}`;
  home.script("tasks.py", CELERY);
  const celery = join(dirname(servers), "celery");
  // Sent first: a worker that looks into the queue meanwhile may read half of a message, and end by that.
  const send = "import tasks; [tasks.slow.delay(number) for number in range(2)]";
  Bun.spawnSync([servers, "-c", send], { cwd: home.dir });
  await home.start(name, celery, {
    interpreter: servers,
    args: ["-A", "tasks", "worker", "-c", "2", "-P", "prefork", "--loglevel", "INFO"],
    restart_policy: "no",
    stop_timeout: 60_000,
  });
  const { pid } = await home.status(name);
  const received = /Task tasks\.slow\[\S+ received/g;
  await waitUntil(async () => (await output(name)).match(received)?.length === 2, "both tasks are received");
  await stopsAt(name, () => home.cli(verb, name));
  const text = await output(name);
  for (const number of [0, 1]) expect(existsSync(join(home.dir, `done-${number}-${pid}`))).toBe(true);
  expect(text).toContain("Warm shutdown");
  expect(text).not.toContain("WorkerLostError");
  expect(text.match(/Task tasks\.slow\[\S+ succeeded/g)).toHaveLength(2);
  await home.cli("delete", name, "-f");
});

test.each(["stop", "restart", "reload"])("gunicorn answers the request that is under way under %s", async (verb) => {
  if (servers === undefined) return;
  home.script(
    "website.py",
    `${PRELUDE}
me = os.getppid()
def app(environ, start_response):
    work()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"answered"]
`,
  );
  await home.start("website", join(dirname(servers), "gunicorn"), {
    interpreter: servers,
    args: ["-b", "127.0.0.1:0", "-w", "2", "--no-control-socket", "--graceful-timeout", "60", "website:app"],
    restart_policy: "no",
    stop_timeout: 60_000,
  });
  const listening = async (): Promise<string | undefined> =>
    /Listening at: (http:\S+)/.exec(await output("website"))?.[1];
  await waitUntil(async () => (await listening()) !== undefined, "it listens");
  const answer = fetch((await listening())!).then((response) => response.text());
  const { pid } = await home.status("website");
  const watching = waitUntil(
    async () => (await output("website")).includes(`[${pid}] [INFO] Handling signal: term`),
    "gunicorn is asked to end",
  ).then(() => writeFileSync(join(home.dir, `asked-${pid}`), ""));
  await stopsAt("website", () => home.cli(verb, "website"));
  await watching;
  expect(await answer).toBe("answered");
  await home.cli("delete", "website", "-f");
});

/**
 * Tells how often it was asked to end. Works on for longer than what is left over from a run that has ended by itself
 * is given.
 */
const CHILD = `
import signal, sys, time
asked = 0
def ask(*_):
    global asked
    asked += 1
signal.signal(signal.SIGTERM, ask)
print("up", flush=True)
while not asked: time.sleep(0.01)
end = time.monotonic() + 2.5
while time.monotonic() < end: time.sleep(0.05)
print("asked", asked, flush=True)
`;

test.each([
  ["a shell that waits for its program", "trap 'echo trapped' TERM\npython3 child.py\n", ["up", "asked 1", "trapped"]],
  ["a shell that does not wait", "python3 child.py\n", ["up", "asked 1"]],
  ["a shell that starts it beside itself", "python3 child.py &\nwait\n", ["up", "asked 1"]],
])("%s: the program is asked once, and has the grace to end", async (_, text, expected) => {
  home.script("child.py", CHILD);
  const script = home.script("wrapper.sh", `#!/bin/bash\n${text}echo last line\n`);
  await home.start("wrapper", script, { interpreter: null, restart_policy: "no" });
  await waitUntil(async () => (await home.lines("wrapper"))[0] === "up", "the program runs");
  expect((await home.cli("stop", "wrapper")).status).toBe(0);
  expect(await home.lines("wrapper")).toEqual(text.startsWith("trap") ? [...expected, "last line"] : expected);
  await home.cli("delete", "wrapper", "-f");
});

test.each([
  ["that dies of the signal", ""],
  ["that passes the signal on", "signal.signal(signal.SIGTERM, lambda *_: child.terminate())"],
])("a wrapper %s: its program is asked once, and has the grace to end", async (_, handler) => {
  home.script("child.py", CHILD);
  const script = home.script(
    "wrapper.py",
    `import signal, subprocess, sys\nchild = subprocess.Popen(["python3", "child.py"])\n${handler}\nsys.exit(child.wait())\n`,
  );
  await home.start("wrapped", script, { restart_policy: "no" });
  await waitUntil(async () => (await home.lines("wrapped"))[0] === "up", "the program runs");
  expect((await home.cli("stop", "wrapped")).status).toBe(0);
  expect(await home.lines("wrapped")).toEqual(["up", "asked 1"]);
  await home.cli("delete", "wrapped", "-f");
});

test("a shell that has executed its program is none any more", async () => {
  home.script("horse.py", WORK_HORSE);
  await home.start("exec", home.script("exec.sh", "#!/bin/sh\n:\nexec python3 -u horse.py\n"), {
    interpreter: null,
    restart_policy: "no",
    stop_timeout: 60_000,
  });
  const pid = await stopsAt("exec", () => home.cli("stop", "exec"));
  expect(await home.lines("exec")).toEqual([`job done ${pid}`, `finished ${pid}`]);
  await home.cli("delete", "exec", "-f");
});

/** A child in the group, and one in a session of its own: what each of them hears while the main process goes on. */
const FAMILY = `${PRELUDE}
def child(name, is_away):
    if os.fork() == 0:
        if is_away: os.setsid()
        def heard(*_): note(name); os._exit(0)
        signal.signal(signal.SIGTERM, heard)
        note(f"up-{name}")
        time.sleep(600)
signal.signal(signal.SIGTERM, ask)
child("near", False)
child("far", True)
work()
print("near" if os.path.exists(f"near-{me}") else "-", "far" if os.path.exists(f"far-{me}") else "-", flush=True)
`;

test.each([
  ["main", "asked", "- -"],
  ["group", "near", "near -"],
  ["tree", "far", "near far"],
])("kill mode %s asks whom it says", async (mode, last, expected) => {
  const script = home.script("family.py", FAMILY);
  const started = await home.cli("start", script, "--kill-mode", mode, "--restart", "no", "--policy", "trusted");
  expect(started).toMatchObject({ status: 0 });
  const { pid } = await home.status("family");
  const here = (what: string): boolean => existsSync(join(home.dir, `${what}-${pid}`));
  await waitUntil(() => here("up-near") && here("up-far"), "both children are up");
  await stopsAt("family", () => home.cli("stop", "family"), last);
  expect(await home.lines("family")).toEqual([expected]);
  expect((await home.cli("describe", "family")).stdout).toMatch(new RegExp(`^kill_mode +${mode}$`, "m"));
  await home.cli("delete", "family", "-f");
});

test("a kill mode is one of three, and unsaid it is said what holds", async () => {
  const script = home.script("idle.py", "import time\ntime.sleep(600)\n");
  expect(await home.cli("start", script, "--kill-mode", "all")).toMatchObject({
    status: 2,
    stderr: expect.stringContaining("main, group, tree"),
  });
  await home.start("idle", script);
  expect((await home.cli("describe", "idle")).stdout).toMatch(/^kill_mode +main, or group while it is a shell$/m);
  expect(JSON.parse((await home.cli("describe", "idle", "--json")).stdout).definition.kill_mode).toBeNull();
  await home.cli("delete", "idle", "-f");
});
