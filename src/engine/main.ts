/** A process in which JavaScript of a Python program runs: meets its shim, takes one channel, and serves it. */
import { meetOnce } from "../plane/meeting.ts";
import { addBundling } from "./bundling.ts";
import { receiveFd, requireSystem } from "../plane/system.ts";
import { addGrants } from "./granting.ts";
import { addModules } from "./modules.ts";
import { Pictures } from "./pictures.ts";
import { forbidImports, IS_DRAINED_AT_START, memory, versionOf } from "./engine-platform.ts";
import { limitMemory } from "./memory-limit.ts";
import { Realm } from "./realm.ts";
import { Session } from "./guest-session.ts";
import { Streams } from "./guest-streams.ts";
import { addTimers } from "./timers.ts";

process.on("uncaughtException", () => undefined); // of promises that nobody handles; what was asked is answered
process.on("unhandledRejection", () => undefined);
/** Of the packet that a socket for debuggers comes with. */
const DEBUG_BYTES = 4;
begin();

function begin(): void {
  try {
    requireSystem();
  } catch (error) {
    const why = versionOf().jit ? (error as Error).message : "Bun gets no memory for machine code, which it needs";
    process.stderr.write(`${why}\n`);
    process.exit(1);
  }
  const takeChannel = meetOnce();
  forbidImports();
  const realm = new Realm(); // while Python is told that we are there
  const segment = takeChannel();
  const session = new Session(segment, realm);
  process.on("unhandledRejection", (reason) => {
    if (session.isPrinting) session.enterLater(() => raise(reason));
  });
  const timers = addTimers(session);
  addModules(session);
  addBundling(session);
  session.add(new Pictures(session, () => receiveFd(segment.descriptors, Buffer.alloc(DEBUG_BYTES))!));
  session.report = () => {
    const { total, used, external } = memory();
    const { timers: once, intervals } = timers.counts;
    return {
      heap_total_bytes: total,
      heap_used_bytes: used,
      external_memory_bytes: external,
      active_timers: once,
      active_intervals: intervals,
      open_resources: once + intervals,
    };
  };
  limitMemory();
  session.hello();
  const streams = new Streams(session); // before any code of the guest, and while Python hears of us
  session.add(streams);
  addGrants(session, streams);
  if (IS_DRAINED_AT_START) session.takeFirst();
}

function raise(reason: unknown): never {
  throw reason;
}
