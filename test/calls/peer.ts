/**
 * A server of the calls suite in a process of its own. `bun peer.ts serve frames|lines` serves on its stdin and stdout,
 * `… serve channel` on the channel that is offered on descriptor 3, `… serve shim` on those that clients open through
 * its shim.
 */
import { frames, lines } from "../../src/calls/byte-transport.ts";
import { ChannelTransport } from "../../src/calls/channel-transport.ts";
import { CallServer } from "../../src/calls/server.ts";
import type { Transport } from "../../src/calls/transport.ts";
import { Channel } from "../../src/plane/channel.ts";
import { serve } from "../../src/runtime/serve.ts";
import { served } from "./served.ts";

const OFFERED_FD = 3;
const OFFER_MS = 60_000;

const open: Readonly<Record<string, () => Promise<Transport>>> = {
  frames: () => Promise.resolve(frames(process.stdin, process.stdout)),
  lines: () => Promise.resolve(lines(process.stdin, process.stdout)),
  channel: () => ChannelTransport.open((listener) => Channel.accept(OFFERED_FD, OFFER_MS, listener)),
};

const by = process.argv[3]!;
if (by === "shim") await serve(served);
else {
  const server = new CallServer(await open[by]!(), served);
  await server.closed;
  process.exit(0);
}
