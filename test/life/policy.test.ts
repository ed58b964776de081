/** `policy explain` and `policy check` say what `start` says, and where libraries keep their caches. */
import { expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { isRoot, skipUnless, SYSTEM_PYTHON } from "../needs.ts";
import { type CliResult, outcomeOf, ROOT, waitUntil, withDaemon } from "../home.ts";

/** What it says of the network and of files, without what the machine enforces it by. */
const granted = (text: string): string[] => text.split("\n").filter((line) => line.startsWith("+"));

test("explain takes the exceptions of start", async () => {
  await withDaemon(async (home) => {
    const folder = join(home.dir, "out");
    mkdirSync(folder);
    const plain = await home.cli("policy", "explain", "strict");
    const listening = await home.cli("policy", "explain", "strict", "--allow-listen=9000");
    expect([plain.status, listening.status, listening.stderr]).toEqual([0, 0, ""]);
    expect(granted(plain.stdout).join()).not.toContain("9000");
    expect(listening.stdout).toContain("9000");
    const more = await home.cli("policy", "explain", "strict", "--allow-net=h.test:443", "--allow-write", folder);
    expect(more.stdout).toContain("h.test:443");
    expect(more.stdout).toContain(folder);
    const script = home.script("one.py", "");
    expect((await home.cli("policy", "explain", "strict", script)).status).toBe(0);
  });
});

test("check and explain refuse what start refuses, in its words", async () => {
  await withDaemon(async (home) => {
    const venv = join(home.dir, "project/.venv/bin");
    mkdirSync(venv, { recursive: true });
    const script = join(home.dir, "project/app.py");
    const cache = dirname(home.paths.environmentsDir);
    const [config, host] = [home.paths.config, join(home.paths.config, "../host.json")];
    for (const folder of [cache, dirname(config)]) mkdirSync(folder, { recursive: true });
    writeFileSync(host, "{}");
    const python = ["--interpreter", SYSTEM_PYTHON]; // no wrapper, which would have to be asked
    writeFileSync(script, "");
    const policy = home.script(
      "own.json",
      JSON.stringify({ version: 1, extends: "strict", files: { write: [home.dir] } }),
    );
    for (const [name, ...flags] of [
      [policy], // covers the policy and the state folder
      ["strict", "--allow-write", home.dir],
      ["strict", "--allow-write", join(home.dir, "missing")],
      ["strict", "--allow-write", cache], // what is made for others is in it, or would be
      ["analysis", "--allow-write", host], // what a worker says there, the daemon would do
      ["strict", "--allow-net=nowhere"],
      ["strict", "--allow-listen=70000"],
      ["strict", "--interpreter", "/missing/python3"],
      ["strict", "--env-file", "missing.env"],
    ] as const) {
      const started = await home.cli("start", script, "--policy", name, ...python, ...flags);
      expect(started.status).not.toBe(0);
      for (const verb of ["explain", "check"])
        expect(await home.cli("policy", verb, name, script, ...python, ...flags)).toEqual({
          ...started,
          stderr: started.stderr.replace("Failed to start app app: ", ""),
        });
      await home.cli("delete", "app");
    }
    writeFileSync(config, "{}"); // with which no daemon would start
    expect((await home.cli("policy", "check", "strict", "--allow-write", config)).stderr).toContain(
      `covers ${config}, which serves to start`,
    );
    rmSync(config);
    // A command has a policy as well, and who runs it decides.
    // Prettier-ignore.
    expect((await home.cli("policy", "check", "strict", "--command", `nice ${SYSTEM_PYTHON}`)).stderr).toContain(
      "nice starts another program",
    );
    // Prettier-ignore.
    expect(
      (await home.cli("policy", "explain", "strict", "--command", SYSTEM_PYTHON, "--uid", "65534")).stdout,
    ).toMatch(/granted: 65534/);
    // Also without a script: what covers the state folder covers it whatever is started.
    expect((await home.cli("policy", "check", policy)).stderr).toContain(
      "which serves to start or supervise the worker",
    );
    expect((await home.cli("policy", "check", "strict", script, ...python)).status).toBe(0);
  });
});

/** What a worker tries, and the flag that the refusal names. It is typed as it stands, and the worker then gets on. */
const TRIES: readonly (readonly [
  what: string,
  code: string,
  flags: string,
  hint: (port: number) => string,
  isReached: boolean,
])[] = [
  [
    "a name",
    "socket.create_connection(('n0.invalid', 80))",
    "--allow-net=127.0.0.1:1",
    () => "--allow-net='n0.invalid:*'",
    false,
  ],
  [
    "an address",
    "socket.create_connection(('127.0.0.1', PORT))",
    "--allow-net=127.0.0.2:1",
    (port) => `--allow-net=127.0.0.1:${port}`,
    true,
  ],
  ["UDP", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "", () => "--allow-net", true],
  ["TCP", "socket.create_connection(('127.0.0.1', PORT))", "", () => "--allow-net", true],
  [
    "listening",
    "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()",
    "--policy strict --allow-net=127.0.0.1:1",
    () => "--allow-listen",
    true,
  ],
];

test.each(TRIES)("the flag that would grant %s works as it is printed", async (_what, code, flags, hint, isReached) => {
  await withDaemon(async (home) => {
    using server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
    const fill = (text: string): string => text.replaceAll("PORT", String(server.port));
    const script = home.script("tries.py", `import socket\n${fill(code)}\n`);
    const run = (given: string): Promise<CliResult> =>
      outcomeOf(
        Bun.spawn(
          [
            "sh",
            "-c",
            `exec ${join(ROOT, "bin/ipcctl")} run ${given.includes("--policy") ? "" : "--policy no-network"} ${given} ${script}`,
          ],
          {
            cwd: home.dir,
            env: home.env,
            stdio: ["ignore", "pipe", "pipe"],
          },
        ),
      );
    const denied = await run(fill(flags));
    expect(denied.status).toBe(1);
    const printed = /would grant it: (.*)$/m.exec(denied.stderr)?.[1];
    expect(printed).toBe(hint(server.port));
    const granted = await run(printed!);
    expect([granted.status, granted.stderr]).toEqual(
      isReached ? [0, ""] : [1, expect.not.stringContaining("would grant it")],
    );
  });
});

const FORKING = `--policy '{"version":1,"extends":"strict","process":{"fork":true}}'`;

const SEMAPHORE = "import multiprocessing\nmultiprocessing.Lock()";

/**
 * What a worker ends over that Landlock, mounts or limits deny: its errno does not say so. Then what is granted does
 * it.
 */
const ENDS: readonly (readonly [what: string, code: string, remedy: RegExp, base?: string])[] = [
  ["a file", "open('some data.txt')", /^--allow-read '\/.*\/some data\.txt'$/],
  ["a new file", "open('out/new', 'w')", /^--allow-write \S+\/out$/],
  ["a file to write", "open('some data.txt', 'w')", /^--allow-write '.*some data\.txt'$/, "--policy read-only"],
  [
    "a file that another error is about",
    "import os\nif not os.path.exists('some data.txt'): sys.exit('sqlite3: unable to open database file')",
    /^--allow-read '.*some data\.txt'$/,
  ],
  ["what tells of itself", "open('/proc/self/status')", /"procfs":"self"/],
  ["a child process", "import os\nif os.fork() == 0: os._exit(0)", /"process":\{"fork":true\}/],
  ["a program", "import subprocess\nsubprocess.run(['true'], check=True)", /"exec":true.*"files":\{"exec":\["\/usr"/],
  [
    "a manager of multiprocessing",
    "import multiprocessing as m\nwith m.Manager() as manager:\n  assert dict(manager.dict({1: 2})) == {1: 2}",
    /"network":\{"unix":"any"\}/,
    FORKING,
  ],
  ["memory", "bytearray(600 << 20)", /"limits":\{"memory":"1G"\}/],
  ["memory of its own limit", "bytearray(80 << 20)", /^--max-memory 128M$/, "--max-memory 64M"],
  [
    "memory, by a library that says how much",
    "try: bytearray(900 << 20)\nexcept MemoryError: sys.exit('numpy.MemoryError: Unable to allocate 1.5 GiB for an array')",
    /"limits":\{"memory":"2G"\}/,
  ],
  ["memory that is shared", "import mmap\nmmap.mmap(-1, 4096)", /"limits":\{"memory":null\}/],
  ...[
    "FileNotFoundError: No such file or directory (os error 2): some data.txt",
    "[Errno 2] Failed to open local file 'some data.txt'. Detail",
  ].map((words): (typeof ENDS)[number] => [
    `a file, as libraries say it (${words.slice(0, 9)})`,
    `import os\nif not os.path.exists('some data.txt'): sys.exit(${JSON.stringify(words)})`,
    /^--allow-read '.*some data\.txt'$/,
  ]),
  ["a module beside it", "import beside", /^--allow-read \S+$/],
  ["a variable", "import os\nos.environ['OF_ITS_USER']", /^-e OF_ITS_USER$/],
  ["a link", "import os\nos.symlink('x', 'out/link')", /^--allow-write \S+\/out$/],
  ["a semaphore", SEMAPHORE, /"process":\{"fork":true\}/],
  ["a semaphore of the machine's", SEMAPHORE, /^--allow-write \/dev\/shm$/, "--policy read-only"],
  [
    "a mode",
    "import os, tempfile\nos.chmod(tempfile.mkstemp()[1], 0o640)",
    /"files":\{"metadata":"allow"\}/,
    "--policy read-only",
  ],
  ["open files", "kept = [open(__file__) for _ in range(200)]", /"limits":\{"openFiles":512\}/],
  [
    "threads",
    "import threading\nfor _ in range(80): threading.Thread(target=threading.Event().wait, daemon=True).start()",
    /"process":\{"threads":256\},"limits":\{"pids":256,"memory":"2048M"\}/,
  ],
  [
    "a large file",
    "import tempfile\nwith tempfile.TemporaryFile() as file: file.truncate(100 << 20)",
    /"limits":\{"fileSize":"256M"\}/,
  ],
];

test.each(ENDS)(
  "a run that ends over %s names what grants it, which works as it is printed",
  async (_what, code, remedy, base = "") => {
    await withDaemon(async (home) => {
      home.script("some data.txt", "content");
      mkdirSync(join(home.dir, "out"));
      mkdirSync(join(home.dir, "scripts"));
      home.script("scripts/beside.py", "");
      const script = home.script("scripts/ends.py", `import sys\n${code}\n`);
      const run = (flags: string): Promise<CliResult> =>
        outcomeOf(
          Bun.spawn(["sh", "-c", `exec ${join(ROOT, "bin/ipcctl")} run ${flags} ${script} -- 'some data.txt'`], {
            cwd: home.dir,
            env: { ...home.env, OF_ITS_USER: "1" },
            stdio: ["ignore", "pipe", "pipe"],
          }),
        );
      const denied = await run(base);
      const told = denied.stderr.split("\n").filter((line) => line.startsWith("ipcctl: "));
      expect([denied.status, told]).toEqual([1, [expect.stringContaining("would grant it: ")]]);
      const printed = /would grant it: (.*)$/.exec(told[0]!)![1]!;
      expect(printed).toMatch(remedy);
      expect((await home.cli("audit", "run", "--denied", "--json")).stdout).not.toBe("");
      const granted = await run(
        `${printed.startsWith("--policy") ? "" : base.replace(/--max-memory.*/, "")} ${printed}`,
      );
      expect([granted.status, granted.stderr]).toEqual([0, ""]);
    });
  },
);

test("a flag that would be refused is not named, but why, and what to do", async () => {
  await withDaemon(async (home) => {
    const { stderr } = await home.cli("run", "-c", "open('new', 'w')"); // beside the state of the daemon
    expect(stderr).not.toContain("would grant it");
    expect(stderr).toMatch(/^ipcctl: the policy denied it: file .*\/new; .* covers .* \(grant a folder beside it\)$/m);
  });
});

test("what a run ends over by itself, or gets over, is not put on the policy", async () => {
  await withDaemon(async (home) => {
    for (const code of [
      "open('missing')",
      "open('/beside-everything', 'w')", // all of the machine is not what it needs
      "import missing",
      "{}['HOME_OF']",
      "1 / 0",
      "import sys; sys.exit(3)",
      "raise MemoryError",
      "print(open.__name__)",
    ]) {
      const policy = code.includes("Memory") ? "no-network" : "strict";
      expect((await home.cli("run", "--policy", policy, "-c", code)).stderr).not.toContain("ipcctl:");
    }
    const words = "import os; print(os.environ.get('IPCCTL_WORDS_FD'), os.get_inheritable(198))";
    expect((await home.cli("run", "-c", words)).stdout).toBe("None False\n");
  });
});

test("under read-only caches go to the scratch folder, unless the definition says otherwise", async () => {
  await withDaemon(async (home) => {
    const script = home.script(
      "caches.py",
      `import os
for name in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
    os.makedirs(os.environ[name], exist_ok=True)
    open(os.path.join(os.environ[name], "probe"), "w").close()
    print(name, os.environ[name].startswith(os.environ["TMPDIR"]))
`,
    );
    const env = { ...home.env, HOME: "/root" };
    Object.assign(home.env, env);
    const { stdout, stderr } = await home.cli("run", "--policy", "read-only", script);
    expect([stdout, stderr]).toEqual(["MPLCONFIGDIR True\nNUMBA_CACHE_DIR True\nXDG_CACHE_HOME True\n", ""]);
    const own = await home.cli(
      "run",
      "--policy",
      "read-only",
      "-e",
      "NUMBA_CACHE_DIR=/x",
      "-c",
      "import os; print(os.environ['NUMBA_CACHE_DIR'])",
    );
    expect(own.stdout).toBe("/x\n");
    const open = await home.cli(
      "run",
      "--policy",
      "no-network",
      "-c",
      "import os; print(os.environ.get('NUMBA_CACHE_DIR'))",
    );
    expect(open.stdout).toBe("None\n");
  });
});

test("a file that is there and not granted is named in status and in the audit, with a flag that works", async () => {
  await withDaemon(async (home) => {
    const data = home.script("some data.txt", "content");
    const script = home.script("reads.py", `print(open(${JSON.stringify(data)}).read())\n`);
    const start = ["start", script, "--policy", "strict", "--restart", "no"];
    await home.cli(...start);
    await waitUntil(async () => (await home.status("reads")).denied.length > 0, "it is told");
    const [denied] = (await home.status("reads")).denied;
    expect(denied).toBe(`file ${data} (--allow-read '${data}')`);
    expect((await home.cli("audit", "--json", "--denied")).stdout).toContain(data);
    await home.cli("delete", "reads");
    await home.cli(...start, "--allow-read", data);
    await waitUntil(async () => (await home.cli("logs", "reads")).stdout.includes("content"), "it reads");
    expect((await home.status("reads")).denied).toEqual([]);
  });
});

test("a limit that is lower already stays so, also for a root without the capability to raise it", async () => {
  if (skipUnless(Bun.which("setpriv") !== null && isRoot, "root", "limits without CAP_SYS_RESOURCE")) return;
  await withDaemon(async (home) => {
    const less = "ulimit -t 300; exec setpriv --bounding-set -sys_resource --inh-caps -sys_resource";
    const code = "import resource as r; print(r.getrlimit(r.RLIMIT_CPU)[1])";
    const limits = '{"version":1,"extends":"trusted","limits":{"cpuSeconds":600}}';
    const child = Bun.spawn(
      ["bash", "-c", `${less} "$@"`, "bash", join(ROOT, "bin/ipcctl"), "run", "--policy", limits, "-c", code],
      {
        cwd: home.dir,
        env: home.env,
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    const { stdout, stderr } = await outcomeOf(child);
    expect([stdout, stderr]).toEqual(["300\n", ""]);
  });
});

test("too little address space for ourselves is said to be that, by a run and by a daemon that cannot start", async () => {
  await withDaemon(async (home) => {
    for (const words of [["run", "-c", "1"], ["status"]]) {
      const child = Bun.spawn(["sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh", join(ROOT, "bin/ipcctl"), ...words], {
        cwd: home.dir,
        env: home.env,
        stdio: ["ignore", "pipe", "pipe"],
      });
      const { status, stderr } = await outcomeOf(child);
      expect([status === 0, stderr]).toEqual([
        false,
        expect.stringContaining("the limit on address space (ulimit -v 2000000)"),
      ]);
    }
  });
});

test("a venv below what may be written is refused with a folder to grant instead, which works", async () => {
  await withDaemon(async (home) => {
    const made = Bun.spawn([SYSTEM_PYTHON, "-m", "venv", "--without-pip", join(home.dir, ".venv")]);
    expect(await made.exited).toBe(0);
    const script = home.script("writes.py", "open('out/file', 'w').write('x')\n");
    const refused = await home.cli("run", "--allow-write", ".", script);
    expect(refused.status).toBe(5);
    const [, make, flag, folder] = /(mkdir -p \S+), then (--allow-write) (\S+?)[;\s]/.exec(refused.stderr)!;
    expect(await Bun.spawn(["sh", "-c", make!], { cwd: home.dir }).exited).toBe(0);
    const granted = await home.cli("run", flag!, folder!, script);
    expect([granted.status, granted.stderr]).toEqual([0, ""]);
  });
});
