/** A program that starts itself again watches over another process: who looks into it is told so. */
import { afterAll, expect, test } from "bun:test";
import { Home, waitUntil } from "../home.ts";
import { SYSTEM_PYTHON } from "../needs.ts";

const home = new Home();
afterAll(() => home[Symbol.asyncDispose]());

/** As Django's and Flask's reloaders do it, by the words of the program itself. */
const RELOADS = `
import os, subprocess, sys, time
if "AGAIN" not in os.environ:
    sys.exit(subprocess.run([sys.executable, "-W", "default", *sys.argv], env={**os.environ, "AGAIN": "1"}).returncode)
print(os.getpid(), flush=True)
while True: time.sleep(0.01)
`;

/** As uvicorn's does it: another Python that is handed the socket; or, without one, a pool that computes. */
const SPAWNS = `
import multiprocessing, os, socket, sys, time
def work(*given):
    print(os.getpid(), flush=True)
    while True: time.sleep(0.01)
if __name__ == "__main__":
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    context = multiprocessing.get_context(sys.argv[1])
    child = context.Process(target=work, args=(listening,) if sys.argv[2] == "serves" else ())
    child.start()
    x = 41
    while True: time.sleep(0.01)
`;

async function evaluate(name: string, script: string, ...args: string[]) {
  await home.start(name, home.script(`${name}.py`, script), { interpreter: SYSTEM_PYTHON, args });
  await waitUntil(async () => (await home.lines(name)).some((line) => /^\d+$/.test(line)), `${name} says its number`);
  const working = Number((await home.lines(name)).find((line) => /^\d+$/.test(line)));
  const { status, stdout, stderr } = await home.cli("eval", name, "1 + 1");
  expect({ status, stdout }).toEqual({ status: 0, stdout: "2\n" });
  return { working, stderr, pid: (await home.status(name)).pid };
}

test.each([
  ["reloads", RELOADS, []],
  ["serves", SPAWNS, ["spawn", "serves"]],
])(
  "eval of a program that %s says that it is the one that watches, and which one works",
  async (name, script, args) => {
    const { working, stderr, pid } = await evaluate(name, script, ...args);
    expect(stderr).toStartWith(`this is process ${pid}, which only supervises and restarts ${name}`);
    expect(stderr).toContain(`the program itself is process ${working}.`);
    await home.cli("delete", "-f", name);
  },
);

test.each([
  ["computes", ["spawn", "computes"]],
  ["forks", ["fork", "serves"]],
])("a program that %s is itself the one that is looked into", async (name, args) => {
  expect((await evaluate(name, SPAWNS, ...args)).stderr).toBe("");
  await home.cli("delete", "-f", name);
});
