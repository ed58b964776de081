/** The daemon from a program in Python that no worker is. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { ROOT } from "../../src/base/install.ts";
import { environment } from "../needs.ts";
import { Home, isAlive, waitUntil } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

async function python(text: string, more: Record<string, string> = {}): Promise<string[]> {
  const script = home.script("client.py", text);
  const env = { ...environment, ...home.env, PYTHONPATH: join(ROOT, "python"), ...more };
  const child = Bun.spawn(["python3", script], { env, stdio: ["ignore", "pipe", "pipe"], timeout: 60_000 });
  const [out, error] = [await new Response(child.stdout).text(), await new Response(child.stderr).text()];
  expect(error).toBe("");
  return out.trim().split("\n");
}

const CODE = `
import ipcctl
def code_of(act):
    try: return act()
    except ipcctl.IpcError as error: return error.code
`;

test("each verb, errors with their codes, and events; the daemon is started, and found again after it was ended", async () => {
  const script = home.script(
    "served.py",
    'import signal, time\nsignal.signal(signal.SIGHUP, lambda *_: print("hup", flush=True))\nprint("out", flush=True)\nwhile True: time.sleep(600)\n',
  );
  const definition = JSON.stringify({ name: "Web", script, cwd: home.dir, restart_policy: "no", instances: 2 });
  const lines = await python(`${CODE}
import json, time
print(code_of(lambda: ipcctl.connect(autostart=False)))
with ipcctl.connect() as ipc:
    with ipc.events(worker="web") as events:
        print(ipc.start_app(json.loads('''${definition}'''))["name"])
        ipc.wait_ready("web")
        print(next(iter(events))["type"])
    print(ipc.list(), [one["state"] for one in ipc.status()], ipc.describe("web")["definition"]["restart_policy"])
    while not all("out" in ipc.last_lines(name)["output"] for name in ipc.list()): time.sleep(0.01)
    ipc.signal("web", "HUP")
    while not all("hup" in ipc.last_lines(name)["output"] for name in ipc.list()): time.sleep(0.01)
    print(ipc.restart("web") == ipc.status("web")["pid"])
    ipc.reload("web")
    ipc.scale("web", 1)
    ipc.flush("web")
    print(ipc.list(), [result["ok"] for result in ipc.act("stop", ["web"], grace=5)])
    print([code_of(act) for act in (lambda: ipc.stop("web"), lambda: ipc.status("none"), lambda: ipc.request({"Nope": {}}), lambda: ipc.start_app({"name": "x"}))])
    pid = ipc.daemon_status()["pid"]
    ipc.shutdown(keep_workers=True)
    while code_of(lambda: ipc.daemon_status()["pid"]) in (pid, "CONNECTION_LOST"): time.sleep(0.01)
    ipc.delete("web")
    print(ipc.request("List"))
print(code_of(ipc.list))
`);
  expect(lines).toEqual([
    "NO_DAEMON",
    "web",
    "process_started",
    "['web', 'web-1'] ['Running', 'Running'] no",
    "True",
    "['web'] [True]",
    "['NOT_RUNNING', 'NOT_FOUND', 'BAD_REQUEST', 'BAD_CONFIG']",
    "{'Data': {'data': []}}",
    "CONNECTION_LOST",
  ]);
});

test("a worker that Python starts and calls, and one that ends with it", async () => {
  const script = home.script(
    "job.py",
    "import ipcctl, os\n@ipcctl.expose\ndef pid(): return os.getpid()\nipcctl.serve()\n",
  );
  const broken = home.script("broken.py", "import nothing_of_that_name\n");
  const lines = await python(`${CODE}
import os, time
with ipcctl.connect() as ipc:
    with ipc.start(${JSON.stringify(script)}, policy="trusted") as job, ipc.start(${JSON.stringify(script)}, policy="trusted") as same:
        print(job.name, job.call("pid") == same.call("pid") == ipc.status("job")["pid"])
    print(code_of(lambda: ipc.start(${JSON.stringify(script)}, policy="trusted", args=["other"])))
    with ipc.start(${JSON.stringify(script)}, life="ephemeral", policy="trusted") as own:
        pid = own.call("pid")
        print(own.name.partition("-")[0], ipc.status(own.name)["owner"] == f"process:{os.getpid()}")
    print(os.path.exists(f"/proc/{pid}"))
    try: ipc.start(${JSON.stringify(broken)}, life="ephemeral")
    except ipcctl.IpcError as error: print(error.code, "No module named 'nothing_of_that_name'" in str(error))
    left = ipc.start(${JSON.stringify(script)}, life="ephemeral", policy="trusted")
    print(left.call("pid"))
    os._exit(0)
`);
  expect(lines.slice(0, -1)).toEqual(["job True", "FAILED", "job True", "False", "NOT_RUNNING True"]);
  const pid = Number(lines.at(-1));
  await waitUntil(() => !isAlive(pid), "the one whose program has ended is gone");
});
