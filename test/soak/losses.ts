/**
 * Workers whose daemon loses its socket, its lock, its database and the room on its disk at random, and is killed;
 * meanwhile they are stopped and started. Then what is listed is what lives, and each is as it was wanted last.
 */
import { mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findLockHolder } from "../../src/base/daemon-lock.ts";
import { fillDisk, mountDisk, unmountDisk } from "../disk.ts";
import { isAlive, waitUntil, type Home } from "../home.ts";
import { pick } from "../seed.ts";
import { agrees, list, living } from "./living.ts";
import { soak } from "./soak.ts";
import { sleep } from "../../src/base/patience.ts";

const APPS = ["one", "two", "three", "four", "five", "six"];
const IDLE = "import time\nwhile True: time.sleep(1)\n";
const LOSSES = ["daemon", "socket", "folder", "lock", "garbage", "truncated", "removed", "full"] as const;
const VERBS = ["stop", "restart", "start"] as const;

await soak("losses", 3, async ({ home, random, goesOn }) => {
  const disk = home.env.IPCCTL_HOME!;
  mkdirSync(disk);
  const isMounted = mountDisk(disk, "32m", "losses of room on the disk");
  try {
    return await lose(home, random, goesOn, isMounted ? LOSSES : LOSSES.filter((loss) => loss !== "full"));
  } finally {
    rmSync(join(disk, "filling"), { force: true });
    await home.cli("daemon", "stop");
    if (isMounted) unmountDisk(disk);
  }
});

async function lose(
  home: Home,
  random: () => number,
  goesOn: () => boolean,
  losses: readonly (typeof LOSSES)[number][],
): Promise<string> {
  const script = home.script("idle.py", IDLE);
  const wanted = new Map<string, boolean>();
  for (const name of APPS) {
    await home.start(name, script, { restart_policy: "always", stop_timeout: 1000, instances: name === "six" ? 2 : 1 });
    wanted.set(name, true);
  }
  const counts = new Map<string, number>();
  let known = 0;
  while (goesOn()) {
    const loss = pick(random, losses);
    counts.set(loss, (counts.get(loss) ?? 0) + 1);
    const name = pick(random, APPS);
    const verb = pick(random, VERBS);
    const asked = home.cli(verb, name);
    await sleep(random() * 400); // how far it gets is what is random here
    await inflict(home, loss);
    const { status, stderr } = await asked;
    // A daemon that is killed takes the request with it; whether it was carried out is not known then.
    const isKnown = status === 0 || (verb === "stop" && stderr.includes("not running"));
    if (!isKnown && !/closed the connection|is full|shutting down/.test(stderr))
      throw new Error(`${verb} ${name}: ${stderr}`);
    rmSync(join(home.env.IPCCTL_HOME!, "filling"), { force: true });
    known += Number(isKnown);
    if (isKnown) wanted.set(name, verb !== "stop");
    else wanted.delete(name);
    if (random() < 0.3) await settle(home, wanted);
  }
  await settle(home, wanted);
  const stopped = await home.cli("daemon", "stop");
  if (stopped.status !== 0) throw new Error(`daemon stop: ${stopped.stderr}`);
  await waitUntil(() => living(home).workers.size + living(home).shims.size === 0, "all are gone");
  return `lost ${[...counts].map(([loss, count]) => `${loss} ${count} times`).join(", ")}; ${known} verbs were carried out meanwhile`;
}

async function inflict(home: Home, loss: (typeof LOSSES)[number]): Promise<void> {
  const { database, lock, runtimeDir, socket } = home.paths;
  switch (loss) {
    case "socket":
      return rmSync(socket, { force: true });
    case "folder":
      return rmSync(runtimeDir, { recursive: true, force: true });
    case "lock":
      return rmSync(lock, { force: true });
    case "removed":
      return rmSync(database, { force: true }); // under the daemon
    case "full":
      return fillDisk(home.env.IPCCTL_HOME!);
    case "daemon":
    case "garbage":
    case "truncated": {
      const pid = findLockHolder(lock)?.pid;
      if (pid === undefined) return;
      process.kill(pid, "SIGKILL");
      await waitUntil(() => !isAlive(pid), "the daemon is gone");
      if (loss === "daemon") return;
      rmSync(`${database}-wal`, { force: true });
      if (loss === "garbage") return writeFileSync(database, Buffer.alloc(5000, 7));
      const size = statSync(database, { throwIfNoEntry: false })?.size ?? 0;
      return writeFileSync(database, Buffer.alloc(Math.min(size, 1000)));
    }
  }
}

/** What is listed is what lives, and what was wanted of each is so. */
async function settle(home: Home, wanted: ReadonlyMap<string, boolean>): Promise<void> {
  let all: Awaited<ReturnType<typeof list>> = [];
  const isSettled = async (): Promise<boolean> => {
    all = await list(home);
    const isAsWanted = [...wanted].every(([name, isUp]) => {
      const own = all.filter(({ app }) => app === name);
      return own.length > 0 && own.every(({ state }) => (state === "Running") === isUp);
    });
    return isAsWanted && agrees(all, home);
  };
  try {
    await waitUntil(isSettled, "all is as it was wanted", 60_000);
  } catch (error) {
    const found = all
      .map(({ name, state, pid, shim_pid, reason }) => `${name} ${state} ${pid} (shim ${shim_pid}) ${reason}`)
      .join("; ");
    const { shims, workers } = living(home);
    const expected = [...wanted].map(([name, isUp]) => `${name} ${isUp ? "up" : "down"}`).join(", ");
    throw new Error(
      `${(error as Error).message}: listed ${found}; wanted ${expected}; lives ${[...shims].join()} ${[...workers].join()}`,
      { cause: error },
    );
  }
}
