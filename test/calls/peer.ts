/**
 * A server of the calls suite in a process of its own: `bun peer.ts serve frames|lines` on its stdin and stdout,
 * `bun peer.ts serve channel` on the one that is offered on descriptor 3.
 */
import { frames, lines } from "../../src/calls/byte-transport.ts";
import { ChannelTransport } from "../../src/calls/channel-transport.ts";
import { CallServer } from "../../src/calls/server.ts";
import type { Transport } from "../../src/calls/transport.ts";
import { Channel } from "../../src/plane/channel.ts";
import { served } from "./served.ts";

const OFFERED_FD = 3;
const OFFER_MS = 60_000;

const open: Readonly<Record<string, () => Promise<Transport>>> = {
  frames: () => Promise.resolve(frames(process.stdin, process.stdout)),
  lines: () => Promise.resolve(lines(process.stdin, process.stdout)),
  channel: () => ChannelTransport.open((listener) => Channel.accept(OFFERED_FD, OFFER_MS, listener)),
};

const server = new CallServer(await open[process.argv[3]!]!(), served);
await server.closed;
process.exit(0);
