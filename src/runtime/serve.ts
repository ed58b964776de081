/** `serve()`: a program that ipcctl has started answers calls, as a script in Python does by `ipcctl.serve()`. */
import { ChannelTransport } from "../calls/channel-transport.ts";
import { CallServer, type Exposed } from "../calls/server.ts";
import { IpcError } from "../base/errors.ts";
import { requirePlatform } from "../base/platform.ts";
import { Channel } from "../plane/channel.ts";
import { meet } from "../plane/meeting.ts";
import { requireSystem } from "../plane/system.ts";

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
  try {
    const meeting = await meet((segment) => {
      void ChannelTransport.open((listener) => Channel.serve(segment, listener)).then((transport) => {
        const server = new CallServer(transport, functions);
        servers.add(server);
        void server.closed.then(() => servers.delete(server));
      });
    });
    return {
      get clients() {
        return servers.size;
      },
      [Symbol.dispose]: () => {
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
