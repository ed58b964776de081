/** The command line beyond start, status and stop, as people and scripts use it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, isAlive, ROOT, waitUntil } from "../home.ts";
import { hasTool, skipUnless } from "../needs.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const SLEEP = "import time\ntime.sleep(600)\n";

async function ended(name: string): Promise<void> {
  await waitUntil(async () => (await home.status(name)).state === "Stopped", `${name} has ended`);
}

/** Runs a script to its end and gives its log lines. */
async function output(...args: string[]): Promise<string> {
  const started = await home.cli("start", "--restart", "no", ...args);
  expect(started.stderr).toBe("");
  const name = /^started (\S+)/.exec(started.stdout)![1]!;
  await ended(name);
  return (await home.cli("logs", name)).stdout;
}

test("logs: by stream, by pattern, by age, with times, as JSON, of several", async () => {
  home.script(
    "two.py",
    "import sys\nfor i in range(30):\n  print('out', i, flush=True)\n  print('err', i, file=sys.stderr, flush=True)\n",
  );
  await home.cli("start", "two.py", "--restart", "no");
  await home.cli("start", "two.py", "--restart", "no", "--name", "other");
  await Promise.all([ended("two"), ended("other")]);
  const lines = async (...args: string[]): Promise<string[]> =>
    (await home.cli("logs", ...args)).stdout.trimEnd().split("\n");
  const numbered = (word: string, from: number, to: number): string[] =>
    Array.from({ length: to - from }, (_, index) => `${word} ${from + index}`);
  expect(await lines("two", "--stdout", "-n", "100")).toEqual(numbered("out", 0, 30));
  expect(await lines("two", "--stderr", "-n", "5")).toEqual(numbered("err", 25, 30));
  expect(await lines("two")).toHaveLength(20);
  expect(await lines("two", "-n", "all", "--grep", "t 1\\d$")).toEqual(numbered("out", 10, 20));
  expect((await lines("two", "-t", "-n", "1"))[0]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z (out|err) 29$/);
  const object = JSON.parse((await lines("two", "--json", "--stderr", "-n", "1"))[0]!);
  expect(object).toMatchObject({ name: "two", stream: "stderr", line: "err 29" });
  expect(await lines("two", "--since", "1h", "--stdout")).toHaveLength(30);
  expect(await lines("two", "--since", "0s")).toEqual([""]);
  const both = await lines("two", "other", "--stdout", "-n", "2");
  expect(both.toSorted()).toEqual(["other | out 28", "other | out 29", "two   | out 28", "two   | out 29"]);
  for (const [flag, value] of [
    ["--grep", "("],
    ["--since", "yesterday"],
    ["-n", "-3"],
  ]) {
    const refused = await home.cli("logs", "two", `${flag}`, `${value}`);
    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain(value!);
  }
});

test("logs -f goes on over a daemon that is killed and its successor", async () => {
  const script = home.script(
    "ticks.py",
    "import os, time\ni = 0\nwhile not os.path.exists('ticks-end'):\n  print('tick', i, flush=True); i += 1; time.sleep(.01)\nprint('end', flush=True)\ntime.sleep(600)\n",
  );
  await home.start("ticks", script);
  const follower = Bun.spawn([join(ROOT, "bin/ipcctl"), "logs", "-f", "-n", "all", "ticks"], {
    env: home.env,
    stdio: ["ignore", Bun.file(join(home.dir, "followed")), "inherit"],
  });
  const followed = (): string[] => readFileSync(join(home.dir, "followed"), "utf8").trimEnd().split("\n");
  await waitUntil(() => followed().length > 10, "it follows");
  await home.killDaemon();
  const at = followed().length;
  await waitUntil(() => followed().length > at + 10, "it follows without a daemon");
  await home.daemonPid();
  writeFileSync(join(home.dir, "ticks-end"), "");
  await waitUntil(() => followed().includes("end"), "it follows to the end");
  follower.kill("SIGINT");
  expect(await follower.exited).toBe(0);
  const lines = followed();
  expect(lines.slice(0, -1)).toEqual(lines.slice(0, -1).map((_, index) => `tick ${index}`));
});

test("a reader that goes away ends the command quietly", async () => {
  await output(home.script("many.py", "for i in range(50000): print('line', i)\n"));
  const child = Bun.spawn(["sh", "-c", `"${join(ROOT, "bin/ipcctl")}" logs many -n all | head -n 1`], {
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect(await new Response(child.stdout).text()).toBe("line 0\n");
  expect(await new Response(child.stderr).text()).toBe("");
});

test("names: globs, groups, apps with instances, all; typing errors get a suggestion", async () => {
  home.script("sleep.py", SLEEP);
  await home.cli("start", "sleep.py", "--name", "job-a", "--group", "night");
  await home.cli("start", "sleep.py", "--name", "job-b", "--group", "night");
  await home.cli("start", "sleep.py", "--name", "web", "--instances", "2");
  const named = async (...args: string[]): Promise<string[]> =>
    (await home.cli(...args)).stdout
      .trimEnd()
      .split("\n")
      .map((line) => line.split(":")[0]!)
      .toSorted();
  expect(await named("restart", "job-*", "--parallel")).toEqual(["job-a", "job-b"]);
  expect(await named("stop", "@night")).toEqual(["job-a", "job-b"]);
  expect(await named("stop", "web")).toEqual(["web", "web-1"]);
  expect(await named("start", "@night")).toEqual(["job-a", "job-b"]);
  const wrong = await home.cli("stop", "jobb");
  expect(wrong).toMatchObject({ status: 4 });
  expect(wrong.stderr).toContain("job-b");
  expect((await home.cli("stop", "@nobody")).status).toBe(4);
  const half = await home.cli("delete", "web-1");
  expect(half).toMatchObject({ status: 1 });
  expect(half.stderr).toContain("ipcctl scale web 1");
  expect(await named("delete", "web", "@night")).toEqual(["job-a", "job-b", "web"]);
});

test.each(["stop", "policy", "policy check", "policy explain", "snapshot create", "daemon status what"])(
  "%p misused: the help that is named is that of the command",
  async (line) => {
    const { status, stderr } = await home.cli(...line.split(" "));
    expect(status).toBe(2);
    const [, named = ""] = /^ {2}see: ipcctl (.*)$/m.exec(stderr) ?? [];
    const help = await home.cli(...named.split(" "));
    expect([help.status, help.stderr]).toEqual([0, ""]);
    expect(help.stdout).toContain(`Usage: ipcctl ${line.replace(" what", "")}`);
  },
);

test("signal: by name and by number; an unknown one is refused with what there is", async () => {
  const script = home.script(
    "hup.py",
    "import signal, time\nfor s in ('HUP', 'USR1'): signal.signal(getattr(signal, 'SIG' + s), lambda n, f: print('got', n, flush=True))\nprint('set', flush=True)\nwhile True: time.sleep(600)\n",
  );
  await home.start("hup", script);
  await waitUntil(async () => (await home.lines("hup")).includes("set"), "the handlers are set");
  expect((await home.cli("signal", "hup", "HUP")).status).toBe(0);
  await waitUntil(async () => (await home.lines("hup")).includes("got 1"), "SIGHUP came");
  expect((await home.cli("signal", "hup", "10")).status).toBe(0);
  await waitUntil(async () => (await home.lines("hup")).includes("got 10"), "SIGUSR1 came");
  const refused = await home.cli("signal", "hup", "NOPE");
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain("NOPE");
});

test("flush empties the logs of a running worker, which goes on writing", async () => {
  const script = home.script(
    "talk.py",
    "import os, time\nprint('before', flush=True)\nwhile not os.path.exists('talk-now'): time.sleep(.01)\nprint('after', flush=True)\ntime.sleep(600)\n",
  );
  await home.start("talk", script);
  await waitUntil(async () => (await home.lines("talk")).includes("before"), "it has written");
  expect((await home.cli("flush", "talk")).status).toBe(0);
  expect((await home.cli("logs", "talk")).stdout).toBe("");
  writeFileSync(join(home.dir, "talk-now"), "");
  await waitUntil(async () => (await home.cli("logs", "talk")).stdout === "after\n", "it writes on");
});

test("daemon stop --keep-workers and daemon restart leave workers alone", async () => {
  await home.start("kept", home.script("kept.py", SLEEP));
  const { pid } = await home.status("kept");
  expect((await home.cli("daemon", "stop", "--keep-workers")).status).toBe(0);
  expect(isAlive(pid!)).toBe(true);
  expect((await home.cli("--no-autostart", "status")).status).toBe(3);
  expect((await home.status("kept")).pid).toBe(pid);
  const before = await home.daemonPid();
  expect((await home.cli("daemon", "restart")).status).toBe(0);
  expect(await home.daemonPid()).not.toBe(before);
  expect((await home.status("kept")).pid).toBe(pid);
});

test("env: flags win over the file, the file over what is inherited; secrets are masked where shown", async () => {
  writeFileSync(join(home.dir, "my.env"), "# comment\nexport A=file\nB='two words' \nAPI_TOKEN=hush-hush\n");
  const shown = await output(
    home.script("env.py", "import os\nprint(*[os.environ.get(k) for k in ('A', 'B', 'API_TOKEN', 'C')], sep='|')\n"),
    "--env-file",
    "my.env",
    "-e",
    "A=flag",
    "-e",
    "C=x=y",
  );
  expect(shown).toBe("flag|two words|hush-hush|x=y\n");
  await home.cli("start", "sleep.py", "--name", "secret", "-e", "DB_PASSWORD=hunter2", "-e", "PLAIN=seen");
  for (const args of [
    ["describe", "secret"],
    ["status", "secret", "--json"],
  ]) {
    const { stdout } = await home.cli(...args);
    expect(stdout).toContain("DB_PASSWORD");
    expect(stdout).toContain("seen");
    expect(stdout).not.toContain("hunter2");
  }
  writeFileSync(join(home.dir, "bad.env"), "fine=1\nnot a line\n");
  const refused = await home.cli("start", "env.py", "--env-file", "bad.env", "--name", "badenv");
  expect(refused.status).not.toBe(0);
  expect(refused.stderr).toContain("bad.env:2");
});

test("what runs a script: its #!, a venv beside it, --interpreter, its ending, or a command line", async () => {
  const shebang = home.script("tool", "#!/bin/sh\necho by sh $0 $1\n");
  chmodSync(shebang, 0o755);
  expect(await output("tool", "--name", "tool", "--", "x")).toMatch(/^by sh \S*tool x\n$/);
  Bun.spawnSync(["python3", "-m", "venv", "--without-pip", join(home.dir, "proj/.venv")]);
  writeFileSync(join(home.dir, "proj/v.py"), "import sys\nprint(sys.prefix)\n");
  expect(await output("proj/v.py")).toBe(`${join(home.dir, "proj/.venv")}\n`);
  home.script("opt.py", "import sys\nprint(sys.flags.optimize)\n");
  expect(await output("opt.py", "--interpreter", "python3 -OO")).toBe("2\n");
  home.script("hello.ts", "const x: number = 42;\nconsole.log(x, process.argv.length);\n");
  expect(await output("hello.ts", "--", "a")).toBe("42 3\n");
  expect(await output("--command", "printf '%s-%s\\n' 'a b' c", "--name", "printf")).toBe("a b-c\n");
});

test("scale, describe and unit do what their help says", async () => {
  await home.cli("start", home.script("sleep.py", SLEEP), "--name", "scaled");
  expect((await home.cli("scale", "scaled", "3")).status).toBe(0);
  const all = JSON.parse((await home.cli("status", "--json")).stdout) as { name: string; state: string }[];
  expect(all.filter(({ name, state }) => name.startsWith("scaled") && state === "Running")).toHaveLength(3);
  for (const bad of ["0", "x", "257", "1.5"]) {
    const refused = await home.cli("scale", "scaled", bad);
    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain("instances");
  }
  await home.cli("start", "sleep.py", "--name", "Scaled-3");
  const taken = await home.cli("scale", "scaled", "4");
  expect(taken.stderr).toContain("an instance of scaled would be called scaled-3, as Scaled-3 is already");
  await home.cli("delete", "scaled-3", "-f");
  await home.cli("delete", "scaled", "-f");
  expect((await home.cli("unit", "--user")).stdout).toContain("WantedBy=default.target");
});

test("init writes what start takes, from pm2's file, bunctl's, or the scripts of the folder", async () => {
  const folder = join(home.dir, "init");
  mkdirSync(folder);
  writeFileSync(join(folder, "svc.py"), SLEEP);
  writeFileSync(
    join(folder, "ecosystem.config.json"),
    JSON.stringify({
      apps: [
        {
          name: "svc",
          script: "svc.py",
          exec_interpreter: "python3",
          args: "--a 1",
          autorestart: false,
          max_memory_restart: "200M",
          instances: 2,
        },
      ],
    }),
  );
  const inFolder = (...args: string[]) =>
    Bun.spawnSync([join(ROOT, "bin/ipcctl"), ...args], { cwd: folder, env: home.env });
  expect(inFolder("init").exitCode).toBe(0);
  expect(JSON.parse(readFileSync(join(folder, "ipcctl.json"), "utf8")).apps[0]).toMatchObject({
    name: "svc",
    restart_policy: "no",
    max_memory: "200M",
  });
  expect(inFolder("init").exitCode).toBe(1);
  const started = inFolder("start");
  // Without control groups.
  expect(started.stderr.toString()).toMatch(/^(not enforced here: max_memory .*\n {2}.*\n)?$/);
  expect(started.stdout.toString()).toMatch(/started svc \(pid \d+\)\nstarted svc-1 \(pid \d+\)/);
  await home.cli("delete", "svc", "-f");
});

test.each([
  [["eval", "brief", "1/0"], 1],
  [["__complete", "stop", "bri"], 0],
])("%p ends when it has said all, and waits for no timer", async (args, status) => {
  await home.cli("start", home.script("brief.py", SLEEP));
  await waitUntil(async () => {
    const began = performance.now();
    expect((await home.cli(...args)).status).toBe(status);
    return performance.now() - began < 900; // the timers have a second
  }, "one that a busy machine does not hold up ends at once");
});

test("completion offers commands, flags and worker names in bash", async () => {
  const script = (await home.cli("completion", "bash")).stdout;
  const complete = (...words: string[]): string[] => {
    const text = `PATH="${join(ROOT, "bin")}:$PATH"\n${script}\nCOMP_WORDS=(ipcctl ${words.map((word) => `'${word}'`).join(" ")})\nCOMP_CWORD=${words.length}\n_ipcctl\nprintf '%s\\n' "\${COMPREPLY[@]}"`;
    return Bun.spawnSync(["bash", "-c", text], { env: home.env }).stdout.toString().trimEnd().split("\n");
  };
  expect(complete("rest")).toEqual(["restart"]);
  await waitUntil(() => complete("stop", "ke").join() === "kept", "a name, for which the daemon is not waited long");
  expect(complete("logs", "--si")).toEqual(["--since"]);
});

test.each([
  [
    "zsh",
    (script: string, typed: string) =>
      `compdef() { }\ncompadd() { print -l -- \${(P)2} }\n${script}\nwords=(${typed})\nCURRENT=\${#words}\n_ipcctl`,
  ],
  ["fish", (script: string, typed: string) => `${script}\ncomplete -C '${typed}'`],
])("completion offers the same in %s", async (shell, program) => {
  const script = (await home.cli("completion", shell)).stdout;
  expect(script).toContain("__complete");
  if (skipUnless(await hasTool(shell, shell), shell, `completion in ${shell}`)) return;
  const complete = (typed: string): string[] => {
    const env = { ...home.env, PATH: `${join(ROOT, "bin")}:${home.env.PATH}`, HOME: home.dir };
    const child = Bun.spawnSync([shell, "-c", program(script, typed)], { env, cwd: home.dir });
    return child.stdout.toString().trimEnd().split("\n");
  };
  expect(complete("ipcctl rest")).toEqual(["restart"]);
  await waitUntil(
    () => complete("ipcctl stop ke").join() === "kept",
    "a name, for which the daemon is not waited long",
  );
  expect(complete("ipcctl logs --si")).toEqual(["--since"]);
});

test("subscribe prints one JSON object a line and ends with the signal", async () => {
  await home.start("noisy", home.script("noisy.py", SLEEP));
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "subscribe", "all", "noisy"], {
    env: home.env,
    stdio: ["ignore", Bun.file(join(home.dir, "events")), "inherit"],
  });
  const events = (): { event: string; app: string }[] =>
    readFileSync(join(home.dir, "events"), "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line));
  await waitUntil(async () => {
    await home.cli("restart", "noisy");
    return events().length > 0;
  }, "an event comes");
  await waitUntil(() => events().some(({ event }) => event === "process_started"), "the start is told");
  child.kill("SIGINT");
  expect(await child.exited).toBe(0);
});

test("status --watch draws again until interrupted", async () => {
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "status", "--watch"], {
    env: home.env,
    stdio: ["ignore", Bun.file(join(home.dir, "watched")), "inherit"],
  });
  await waitUntil(
    () => existsSync(join(home.dir, "watched")) && readFileSync(join(home.dir, "watched"), "utf8").includes("kept"),
    "a table",
  );
  child.kill("SIGINT");
  expect(await child.exited).toBe(0);
});

test("where no state can be kept, doctor says so with all the rest, and a start what to do", async () => {
  await using home = new Home();
  const file = home.script("file", "");
  home.env.IPCCTL_HOME = file;
  const doctor = await home.cli("doctor");
  expect(doctor.stdout).toContain("FAIL  state directory    ENOTDIR");
  expect(doctor.stdout).toContain("policies");
  expect(doctor).toMatchObject({ status: 1, stderr: "" });
  const { status, stderr } = await home.cli("start", file);
  expect(status).toBe(3);
  expect(stderr).toMatch(/^ipcctl: the daemon could not be started: ENOTDIR.*\n {2}set IPCCTL_HOME to a folder/);
});
