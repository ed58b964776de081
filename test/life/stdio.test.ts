/**
 * What a confined run may do to the files, pipes and the terminal that it was given as its stdio: use them, and no
 * more.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mountDisk, unmountDisk } from "../disk.ts";
import { Home, outcomeOf, ROOT, within } from "../home.ts";

let home: Home;
beforeAll(async () => {
  home = new Home();
  home.script("hostile.py", HOSTILE);
  expect((await home.cli("snapshot", "create", "warm", "--import", "json")).status).toBe(0);
});
afterAll(() => home[Symbol.asyncDispose]());

/** Empties what it was given as far as it can, and leaves it non-blocking. */
const HOSTILE = `
import fcntl, os
for fd in 0, 1, 2:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_APPEND | os.O_NONBLOCK)
    for attempt in (lambda: os.lseek(fd, 0, 0), lambda: os.ftruncate(fd, 0), lambda: os.truncate("/proc/self/fd/%d" % fd, 0),
                    lambda: os.open("/proc/self/fd/%d" % fd, os.O_WRONLY | os.O_TRUNC)):
        try: attempt()
        except OSError: pass
os.write(1, b"mine\\n")
`;

/** A line of a shell, in the test's folder; \`RUN\` is the command line's \`run\`. */
async function shell(line: string) {
  const child = Bun.spawn(["bash", "-c", line.replaceAll("RUN", `${join(ROOT, "bin/ipcctl")} run`)], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  return await within(60_000, line, outcomeOf(child));
}
const file = (name: string) => readFileSync(join(home.dir, name), "utf8");

describe.each([
  ["strict", ""],
  ["read-only", "--policy read-only"],
  ["a snapshot's worker", "--snapshot warm"],
])("%s", (_, flags) => {
  test("a log that it appends to is only longer afterwards", async () => {
    writeFileSync(join(home.dir, "log"), "history\n");
    expect(await shell(`RUN ${flags} hostile.py >>log 2>&1`)).toMatchObject({ status: 0 });
    expect(file("log")).toBe("history\nmine\n");
  });

  test("a file that is its input, open for writing too, is as it was", async () => {
    writeFileSync(join(home.dir, "input"), "one\ntwo\n");
    expect(await shell(`RUN ${flags} hostile.py 0<>input`)).toMatchObject({ status: 0, stdout: "mine\n" });
    expect(file("input")).toBe("one\ntwo\n");
  });
});

test.each(["<input", "0<>input"])(
  "what it has read of %s is read, and the rest is left for the next",
  async (input) => {
    writeFileSync(join(home.dir, "input"), "one\ntwo\nthree\n");
    const { stdout } = await shell(`(RUN -c 'import os; print(os.read(0, 4))'; cat) ${input}`);
    expect(stdout).toBe("b'one\\n'\ntwo\nthree\n");
  },
);

test("mode and times of its input are as they were, also where it has a name for it", async () => {
  writeFileSync(join(home.dir, "input"), "one\n", { mode: 0o600 });
  const before = statSync(join(home.dir, "input"));
  const said = { version: 1, extends: "strict", process: { procfs: "self", uid: "keep" } };
  home.script(
    "names.py",
    `
import os
for attempt in lambda: os.chmod("/proc/self/fd/0", 0o777), lambda: os.utime("/proc/self/fd/0", (0, 0)):
    try: attempt()
    except OSError as error: print(error.strerror)
`,
  );
  const { stdout } = await shell(`RUN --policy '${JSON.stringify(said)}' names.py <input`);
  expect(stdout).toBe("Operation not permitted\n".repeat(2));
  const { mode, mtimeMs } = statSync(join(home.dir, "input"));
  expect({ mode, mtimeMs }).toEqual({ mode: before.mode, mtimeMs: before.mtimeMs });
});

test("a folder, by which it could go up, is not handed to it", async () => {
  for (const place of ["</", "1</", "2</"]) {
    const { status, stderr } = await shell(`RUN --policy strict --command /bin/true ${place}`);
    expect({ place, status, stderr }).toEqual({
      place,
      status: expect.any(Number),
      stderr: place === "2</" ? "" : expect.stringContaining("cannot be handed to the worker: Is a directory"),
    });
    expect(status).not.toBe(0);
  }
});

test("a pipe or a file blocks afterwards as it did before", async () => {
  const look = "python3 -c 'import os; print(*map(os.get_blocking, (0, 1)))'";
  expect((await shell(`sleep 0 | (RUN hostile.py >&2; ${look}) | cat`)).stdout).toBe("True True\n");
  await shell(`(RUN hostile.py; ${look}) >>both <hostile.py`);
  expect(file("both")).toBe("mine\nTrue True\n");
});

test("both outputs in one file are in the order in which they were written", async () => {
  const lines = "import os\nfor i in range(5000): os.write(1 + i % 2, b'%d\\n' % i)";
  await shell(`RUN -c "${lines}" >order 2>&1`);
  expect(file("order")).toBe(Array.from({ length: 5000 }, (_, index) => `${index}\n`).join(""));
});

test("200,000 lines in a file are all there, and the status is the worker's", async () => {
  const { status } = await shell(`RUN -c "for i in range(200000): print(i)\nraise SystemExit(7)" >many`);
  expect(status).toBe(7);
  expect(file("many").split("\n").length).toBe(200_001);
});

test("a file gets what the policy lets one have, and what is more is said and fails", async () => {
  writeFileSync(
    join(home.dir, "small.json"),
    JSON.stringify({ version: 1, extends: "strict", limits: { fileSize: "64K" } }),
  );
  const write = (bytes: number) =>
    shell(`RUN --policy ./small.json -c "import os; os.write(1, b'x' * ${bytes})" >sized`);
  expect(await write(65_536)).toMatchObject({ status: 0, stderr: "" });
  expect(await write(65_537)).toMatchObject({
    status: 71,
    stderr: "ipcctl: standard output: the policy limits a file to 65536 bytes (limits.fileSize)\n",
  });
  expect(statSync(join(home.dir, "sized")).size).toBe(65_536);
});

test("output that finds no room fails the run, and says why", async () => {
  const disk = join(home.dir, "disk");
  mkdirSync(disk);
  if (!mountDisk(disk, "64k", "a run whose output finds no room")) return;
  try {
    expect(await shell(`RUN -c "import os; os.write(1, b'x' * 65537)" >disk/out`)).toMatchObject({
      status: 71,
      stderr: "ipcctl: standard output: No space left on device\n",
    });
    const { status, stderr } = await shell(`RUN -c "while True: print('x' * 100)" >disk/out`);
    expect(status).toBe(1);
    expect(stderr).toContain("No space left on device");
    expect(stderr).toContain("BrokenPipeError");
  } finally {
    unmountDisk(disk);
  }
});

test("a terminal that was left in another mode is as it was before", async () => {
  home.script("raw.py", "import tty\ntty.setraw(0)\nprint('raw')\n");
  home.script(
    "terminal.py",
    `
import os, pty, sys, termios
pid, master = pty.fork()
if pid == 0:
    before = termios.tcgetattr(0)
    os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:])
    print("same" if termios.tcgetattr(0) == before else "another", flush=True)
    os._exit(0)
text = b""
while b"same" not in text and b"another" not in text: text += os.read(master, 4096)
print(text.decode().split())
`,
  );
  const { stdout } = await shell(`python3 terminal.py ${join(ROOT, "bin/ipcctl")} run --policy read-only raw.py`);
  expect(stdout).toBe("['raw', 'same']\n");
});
