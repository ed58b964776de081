/** `serve()`: a program that ipcctl has started answers calls, as a script in Python does by `ipcctl.serve()`. */
import { ChannelTransport } from "../calls/channel-transport.ts";
import { CallServer, type Exposed } from "../calls/server.ts";
import { IpcError } from "../base/errors.ts";
import { requirePlatform } from "../base/platform.ts";
import { Channel } from "../plane/channel.ts";
import type { OpenSegment } from "../plane/meet.ts";
import { meet } from "../plane/meeting.ts";
import { requireSystem } from "../plane/system.ts";
import { attachHost, mayAskHost, takeHostChannel } from "./host.ts";

/** What {@link serve} gives: it serves until this is disposed. */
export type Serving = Disposable & {
  /** How many clients have a channel open. */
  readonly clients: number;
};

let isServing = false;

/**
 * Lets clients call these functions by their names: sync, async, or generators, which become streams. An option of
 * keyword arguments comes as one more object behind the others; {@link callContext} knows the signal of the call. The
 * program stays alive for its clients, and its event loop stays its own.
 * @throws IpcError FAILED if ipcctl has not started this program, or it serves already
 */
export async function serve(functions: Exposed): Promise<Serving> {
  requirePlatform();
  requireSystem();
  if (isServing) throw new IpcError("FAILED", "serve: this program serves already");
  isServing = true;
  const servers = new Set<CallServer>();
  let isOver = false;
  const open = async (segment: OpenSegment): Promise<void> => {
    const transport = await ChannelTransport.open((listener) => Channel.serve(segment, listener));
    if (isOver) return transport[Symbol.dispose]();
    let server: CallServer;
    try {
      server = new CallServer(transport, functions);
    } catch {
      return transport[Symbol.dispose](); // what its client has written there is no ring: the client sees it closed
    }
    servers.add(server);
    void server.closed.then(() => servers.delete(server));
  };
  try {
    const meeting = await meet({
      calls: (segment) => void open(segment),
      host: takeHostChannel, // it comes once, whether or not the program has asked for anything yet
    });
    if (mayAskHost()) await attachHost(); // stays when this program serves no more
    return {
      get clients() {
        return servers.size;
      },
      [Symbol.dispose]: () => {
        if (isOver) return;
        isOver = true;
        isServing = false;
        meeting.leave();
        for (const server of servers) server[Symbol.dispose]();
      },
    };
  } catch (error) {
    isServing = false;
    throw error;
  }
}
