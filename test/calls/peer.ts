/** A server of the calls suite in a process of its own, on its stdin and stdout: `bun peer.ts serve frames|lines`. */
import { frames, lines } from "../../src/calls/byte-transport.ts";
import { CallServer } from "../../src/calls/server.ts";
import { served } from "./served.ts";

const over = { frames, lines }[process.argv[3] as "frames" | "lines"];
const server = new CallServer(over(process.stdin, process.stdout), served);
await server.closed;
process.exit(0);
