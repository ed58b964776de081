/** Every command that README shows is typed here, as it stands there, in a folder with what it names. */
import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { Home, ROOT, waitUntil } from "../home.ts";

const readme = readFileSync(join(ROOT, "README.md"), "utf8");
const blocks = [...readme.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap(([, block]) => block!.trim().split("\n"));
const commands = blocks.filter((line) => line.startsWith("ipcctl ")).map((line) => line.replace(/\s+# .*$/, ""));

/** These go on until they are interrupted. */
const ENDLESS = /--watch$|logs -f/;

test("each command of README does what it is shown for", async () => {
  expect(commands.length).toBeGreaterThan(8);
  await using home = new Home();
  const worker = "import time\nprint('ERROR made up', flush=True)\ntime.sleep(600)\n";
  home.script("hello.py", worker);
  home.script("worker.py", worker);
  home.script("web.py", worker);
  home.script("crawler.py", worker);
  home.script("input.csv", "");
  home.script("job.py", "import sys\nprint(sys.argv)\n");
  home.script("input.csv", "a,b\n");
  home.script("task.txt", "what files are there?\n");
  home.script("agent.py", "import sys\nfrom ipcctl import host\nprint(sys.stdin.read(), host.call('files.list'))\n");
  home.script("gunicorn", `#!/bin/sh\nexec sleep 600\n`);
  Bun.spawnSync(["chmod", "+x", join(home.dir, "gunicorn")]);
  home.script(
    "ipcctl.json",
    JSON.stringify({
      apps: [
        { name: "web", script: "web.py", instances: 2 },
        { name: "job-1", script: "worker.py" },
      ],
    }),
  );
  symlinkSync(join(ROOT, "examples"), join(home.dir, "examples"));
  const env = { ...home.env, PATH: `${join(ROOT, "bin")}:${home.dir}:${home.env.PATH}` };
  for (const command of commands) {
    const line = command.replace("> /etc/systemd/system/", `> ${home.dir}/`);
    const child = Bun.spawn(["sh", "-c", ENDLESS.test(line) ? `exec ${line}` : line], {
      cwd: home.dir,
      env,
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    if (ENDLESS.test(line)) {
      const { value } = await child.stdout.getReader().read();
      expect(Buffer.from(value ?? []).length).toBeGreaterThan(0);
      process.kill(-child.pid, "SIGINT");
      expect(await child.exited).toBe(0);
      continue;
    }
    const stderr = await new Response(child.stderr).text();
    expect({ line, status: await child.exited, stderr }).toEqual({ line, status: 0, stderr: expect.any(String) });
  }
}, 60_000);

test("the examples are real", async () => {
  await using home = new Home();
  await home.start("loop", join(ROOT, "examples/loop.py"));
  await home.start("http", join(ROOT, "examples/http_service.py"), { env: { PORT: "0" } });
  await home.start("flaky", join(ROOT, "examples/flaky_job.py"));
  await waitUntil(async () => (await home.lines("loop"))[0] === "tick 0", "the loop ticks");
  await waitUntil(async () => (await home.lines("http")).length > 0, "the service listens");
  const port = Number((await home.lines("http"))[0]!.replace("listening on ", ""));
  expect(await (await fetch(`http://127.0.0.1:${port}/`)).text()).toBe("hello from instance 0\n");
  expect((await home.status("flaky")).state).not.toBe("Stopped");
}, 60_000);

test("the TypeScript of README runs against its Python", async () => {
  await using home = new Home();
  const block = (language: string): string => new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``).exec(readme)![1]!;
  home.script("calc.py", block("python"));
  const said = `console.log(row_, await py.call("add", 2, 3), await py.eval("sum(range(10))"));`;
  const program = block("ts").replace("if (row.row === 10) break;", "{ row_ = row; if (row.row === 10) break; }");
  const main = home.script("main.ts", `let row_: unknown;\n${program}\n${said}\n`);
  mkdirSync(join(home.dir, "node_modules"));
  symlinkSync(ROOT, join(home.dir, "node_modules/ipcctl"));
  const child = Bun.spawn([process.execPath, "--no-env-file", main], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect(await new Response(child.stderr).text()).toBe("");
  expect(await new Response(child.stdout).text()).toContain('label: "row 10"');
}, 30_000);

test("the example of a backend answers with what Python says", async () => {
  await using home = new Home();
  const child = Bun.spawn([process.execPath, "--no-env-file", join(ROOT, "examples/backend.ts")], {
    cwd: home.dir,
    env: { ...home.env, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const { value } = await child.stdout.getReader().read();
  const url = /http:\S+/.exec(Buffer.from(value!).toString())![0];
  expect(await (await fetch(`${url}add?a=2&b=3`, { proxy: false } as RequestInit)).json()).toBe(5);
  expect(await (await fetch(`${url}primes?limit=20`, { proxy: false } as RequestInit)).text()).toBe(
    "2\n3\n5\n7\n11\n13\n17\n19\n",
  );
  child.kill();
  await child.exited;
}, 30_000);
