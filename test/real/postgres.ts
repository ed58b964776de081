/** PostgreSQL from Debian's package, with a database and a port of the test's own. */
import { chownSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { within } from "../deadline.ts";
import { hasInstalled, isRoot } from "../needs.ts";

export type Postgres = AsyncDisposable & { readonly port: number; readonly url: string };

const READY_MS = 120_000;
/** A port that was free a moment ago may be taken. */
const TRIES = 5;

const programs = (): string | undefined =>
  [...new Bun.Glob("/usr/lib/postgresql/*/bin").scanSync({ onlyFiles: false, cwd: "/" })].at(-1);

/** Whether it can be started here. */
export function hasPostgres(): Promise<boolean> {
  return hasInstalled(() => programs() !== undefined, "postgresql");
}

export async function startPostgres(): Promise<Postgres> {
  const bin = programs()!;
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-postgres-"));
  const idOf = (option: string): number => Number(Bun.spawnSync(["id", option, "postgres"]).stdout.toString());
  if (isRoot) chownSync(folder, idOf("-u"), idOf("-g")); // it refuses to run as root
  const as = isRoot ? ["--reuid=postgres", "--regid=postgres", "--clear-groups"] : [];
  const spawn = (...command: string[]) =>
    Bun.spawn(["setpriv", "--pdeathsig=QUIT", ...as, ...command], {
      cwd: folder,
      env: { PATH: process.env.PATH! },
      stdio: ["ignore", "ignore", "pipe"],
    });
  const data = join(folder, "data");
  const made = spawn(
    join(bin, "initdb"),
    "-D",
    data,
    "-U",
    "tester",
    "--auth=trust",
    "--no-sync",
    "--no-locale",
    "-E",
    "UTF8",
  );
  const said = await new Response(made.stderr).text();
  if ((await made.exited) !== 0) throw new Error(`initdb: ${said}`);
  for (let attempt = 1; ; attempt++) {
    const port = freePort();
    const settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"].flatMap((one) => [
      "-c",
      one,
    ]);
    const server = spawn(join(bin, "postgres"), "-D", data, "-p", `${port}`, ...settings);
    const failure = await within(READY_MS, "PostgreSQL accepts connections", saysReady(server.stderr));
    if (failure === undefined)
      return {
        port,
        url: `postgresql://tester@localhost:${port}/postgres`,
        async [Symbol.asyncDispose]() {
          server.kill("SIGQUIT");
          await server.exited;
          rmSync(folder, { recursive: true, force: true });
        },
      };
    await server.exited;
    if (attempt === TRIES) throw new Error(`postgres: ${failure}`);
  }
}

/** Undefined when it does; all that it said if it ends before. What it says later is read and dropped. */
function saysReady(stderr: ReadableStream<Uint8Array>): Promise<string | undefined> {
  return new Promise((resolve) => {
    void (async () => {
      let said = "";
      for await (const part of stderr) {
        said += Buffer.from(part).toString();
        if (said.includes("ready to accept connections")) resolve(undefined);
      }
      resolve(said);
    })();
  });
}

function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  listener.stop(true);
  return listener.port;
}
