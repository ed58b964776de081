/**
 * The router as a program, which the daemon starts as a worker of its own: `router STATE_DIR`. It parses what hostile
 * workers send, so it runs without network, programs or credentials, and writes only its audit and the stores.
 */
import { join } from "node:path";
import { AuditSpool } from "../audit/spool.ts";
import { mayRotate, untakenBytes } from "../audit/taken.ts";
import { ChannelTransport } from "../calls/channel-transport.ts";
import { callContext, CallServer } from "../calls/server.ts";
import { Channel } from "../plane/channel.ts";
import { meet } from "../plane/meeting.ts";
import { Journal } from "./journal.ts";
import { Pace } from "./pace.ts";
import { Router } from "./router.ts";
import { filesNamedIn, startShipped } from "./shipped.ts";

void begin(process.argv[2]!);

async function begin(stateDir: string): Promise<void> {
  const audit = new AuditSpool(stateDir, "router", mayRotate);
  const untaken = (): number | undefined => untakenBytes(audit.path);
  const router = new Router(
    await startShipped(join(stateDir, "data")),
    new Journal(join(stateDir, "data/router/journal.sqlite")),
    {
      write: (entries) => audit.writeAll(entries),
      pace: new Pace({
        get written() {
          return audit.written;
        },
        untaken,
      }),
    },
    filesNamedIn(join(stateDir, "data/files")),
  );
  process.once("SIGTERM", () => {
    router.recordRest();
    process.exit();
  });
  // What the daemon calls. No confined process can: the shim refuses those.
  const functions = {
    admit: (label: unknown, who: unknown) => router.admit(label, who),
    sessions: () => router.sessions,
    provide: (plugin: unknown) => router.provide(plugin),
    ask: (request: string, who: string, group: string) => router.ask(request, who, group),
    askFor: (who: unknown, request: string, isAgain: boolean) => router.askFor(who, request, isAgain),
    leaveAllBut: (sessions: readonly string[]) => router.leaveAllBut(sessions),
    hold: (name: string, drainMs: number) => router.hold(name, drainMs),
    release: (name: string) => router.release(name),
    withdraw: (name: string) => router.withdraw(name),
    offer: (label: string, what: unknown) => router.offer(label, what),
    replaced: (group: string, owner: number | null) => router.replaced(group, owner),
    expect: (label: string, [name, group]: [string, string | null]) => router.expect(label, name, group),
    waiting: () => router.asking.waiting,
    // It lasts as long as the daemon, whose functions it lends us.
    attend: () => {
      const { bound, signal } = callContext();
      router.attend({ start: bound("start"), kill: bound("kill"), runtime: bound("runtime") }, signal);
      router.asking.attend({ approve: bound("approve"), over: bound("over") }, signal);
      return new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));
    },
  };
  await meet({
    calls: (segment) =>
      void ChannelTransport.open((listener) => Channel.serve(segment, listener)).then(
        (transport) => new CallServer(transport, functions),
      ),
    relay: (label, segment) => router.relay(label, segment),
  });
}
