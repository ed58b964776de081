/** The peers of the benchmark, installed once into bench/out at fixed versions, each with a home of its own. */
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const OUT = join(import.meta.dir, "out");
const PM2_VERSION = "7.0.4";
const SUPERVISOR_VERSION = "4.3.0";

export type Program = { readonly name: string; readonly script: string };

/** A process manager that the benchmark drives by its own command line. */
export interface Peer extends AsyncDisposable {
  readonly name: string;
  /** Its long-lived process. */
  pid(): number;
  start(programs: readonly Program[]): Promise<void>;
  /** What its user types to see the workers. */
  readonly list: string[];
  /** What its user types to follow one. */
  follow(name: string): string[];
  /** The log file of a program's stdout. */
  log(name: string): string;
  readonly env: Record<string, string>;
}

async function run(command: string[], env: Record<string, string>): Promise<void> {
  const child = Bun.spawn(command, { env, stdio: ["ignore", "ignore", "pipe"] });
  const stderr = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
}

export async function pm2(dir: string, python: string, base: Record<string, string>): Promise<Peer> {
  const bin = join(OUT, "node_modules/.bin/pm2");
  if (!existsSync(bin)) {
    mkdirSync(OUT, { recursive: true });
    await run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", OUT, `pm2@${PM2_VERSION}`], base);
  }
  const home = join(dir, "pm2");
  const env = { ...base, PM2_HOME: home };
  return {
    name: `pm2 ${PM2_VERSION}`,
    env,
    list: [bin, "ls"],
    pid: () => Number(readFileSync(join(home, "pm2.pid"), "utf8")),
    follow: (name) => [bin, "logs", name, "--raw", "--lines", "0"],
    log: (name) => join(home, "logs", `${name}-out.log`),
    start: async (programs) => {
      const file = join(dir, "ecosystem.config.json");
      const apps = programs.map(({ name, script }) => ({
        name,
        script,
        interpreter: python,
        autorestart: false,
        cwd: dir,
      }));
      writeFileSync(file, JSON.stringify({ apps }));
      await run([bin, "start", file], env);
    },
    [Symbol.asyncDispose]: () => run([bin, "kill"], env),
  };
}

export async function supervisord(dir: string, python: string, env: Record<string, string>): Promise<Peer> {
  const venv = join(OUT, "venv");
  const bin = (name: string): string => join(venv, "bin", name);
  if (!existsSync(bin("supervisord"))) {
    mkdirSync(OUT, { recursive: true });
    await run(["python3", "-m", "venv", venv], env);
    await run([bin("pip"), "install", "--quiet", `supervisor==${SUPERVISOR_VERSION}`], env);
  }
  const home = join(dir, "supervisor");
  mkdirSync(home);
  const file = join(home, "supervisord.conf");
  const known: Program[] = [];
  const control = [bin("supervisorctl"), "-c", file];
  let isUp = false;
  return {
    name: `supervisord ${SUPERVISOR_VERSION}`,
    env,
    list: [...control, "status"],
    pid: () => Number(readFileSync(join(home, "supervisord.pid"), "utf8")),
    follow: (name) => [...control, "tail", "-f", name],
    log: (name) => join(home, `${name}.log`),
    start: async (programs) => {
      known.push(...programs);
      const sections = known.map(
        ({ name, script }) =>
          `[program:${name}]\ncommand=${python} ${script}\ndirectory=${dir}\nstartsecs=0\nautorestart=false\nstdout_logfile=${join(home, `${name}.log`)}\nstdout_logfile_maxbytes=0\n`,
      );
      writeFileSync(
        file,
        `[unix_http_server]\nfile=${join(home, "sock")}\n[supervisord]\npidfile=${join(home, "supervisord.pid")}\nlogfile=${join(home, "main.log")}\nchildlogdir=${home}\nminfds=4096\n[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n[supervisorctl]\nserverurl=unix://${join(home, "sock")}\n${sections.join("")}`,
      );
      await run(isUp ? [...control, "update"] : [bin("supervisord"), "-c", file], env);
      isUp = true;
    },
    [Symbol.asyncDispose]: async () => {
      if (isUp) await run([...control, "shutdown"], env);
    },
  };
}

/** Newlines in a file. */
export async function countLines(path: string): Promise<number> {
  let count = 0;
  if (!existsSync(path)) return 0;
  for await (const block of Bun.file(path).stream()) for (const byte of block) if (byte === 10) count++;
  return count;
}

/** Waits until a file has not grown for a second: a peer has no other way to say that it is done. */
export async function settled(path: string): Promise<void> {
  for (let last = -1; ;) {
    const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    if (size === last) return;
    last = size;
    await Bun.sleep(1000);
  }
}
