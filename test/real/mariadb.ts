/** MariaDB from Debian's package, with a folder, a socket and a port of the test's own. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { within } from "../deadline.ts";
import { hasInstalled } from "../needs.ts";
import { asUser, freePort, saysReady } from "./servers.ts";

export type Mariadb = AsyncDisposable & {
  readonly port: number;
  /** Where `root` may do everything, without a password. */
  readonly socket: string;
};

const SERVER = "/usr/sbin/mariadbd";
const READY_MS = 120_000;
/** A port that was free a moment ago may be taken. */
const TRIES = 5;

/** Whether it can be started here. */
export function hasMariadb(): Promise<boolean> {
  return hasInstalled(() => existsSync(SERVER), "mariadb-server");
}

export async function startMariadb(): Promise<Mariadb> {
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-mariadb-"));
  const as = asUser("mysql", folder);
  const spawn = (...command: string[]) =>
    Bun.spawn(["setpriv", "--pdeathsig=KILL", ...as, ...command], {
      cwd: folder,
      env: { PATH: process.env.PATH! },
      stdio: ["ignore", "ignore", "pipe"],
    });
  const data = `--datadir=${join(folder, "data")}`;
  const made = spawn(
    "mariadb-install-db",
    ...["--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db"],
  );
  const said = await new Response(made.stderr).text();
  if ((await made.exited) !== 0) throw new Error(`mariadb-install-db: ${said}`);
  const socket = join(folder, "socket");
  for (let attempt = 1; ; attempt++) {
    const port = freePort();
    const server = spawn(
      SERVER,
      ...["--no-defaults", data, `--socket=${socket}`, `--port=${port}`, "--bind-address=127.0.0.1"],
      ...[`--pid-file=${join(folder, "pid")}`, "--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0"],
    );
    const ready = saysReady(server.stderr, "ready for connections");
    const failure = await within(READY_MS, "MariaDB accepts connections", ready);
    if (failure === undefined)
      return {
        port,
        socket,
        async [Symbol.asyncDispose]() {
          server.kill("SIGKILL");
          await server.exited;
          rmSync(folder, { recursive: true, force: true });
        },
      };
    await server.exited;
    if (attempt === TRIES) throw new Error(`mariadbd: ${failure}`);
  }
}
