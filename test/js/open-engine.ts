/**
 * An engine whose guest has escaped: what it is sent is evaluated beside its own program, with all that Bun has. What
 * it cannot do is what its sandbox keeps.
 */
import { FROM_ENGINE } from "../../contract/engine.ts";
import { decode } from "../../src/plane/cbor-decode.ts";
import { Encoder } from "../../src/plane/cbor-encode.ts";
import { Channel } from "../../src/plane/channel.ts";
import type { OpenSegment } from "../../src/plane/meet.ts";
import { meet } from "../../src/plane/meeting.ts";

void begin();

async function begin(): Promise<void> {
  const taken = Promise.withResolvers<OpenSegment>();
  const meeting = await meet({ calls: taken.resolve });
  const channel = Channel.serve(await taken.promise, {
    onMessage: (bytes) => void answer(decode(bytes) as [number, number, string]),
    onClose: () => process.exit(),
  });
  const encoder = new Encoder(channel.sharing.lend);
  const answer = async ([, number, code]: [number, number, string]): Promise<void> => {
    let said: unknown;
    try {
      // eslint-disable-next-line no-eval -- what it is for: code of a test, within the sandbox
      said = await (0, eval)(code);
    } catch (error) {
      said = String(error);
    }
    channel.send(encoder.encode([FROM_ENGINE.result, number, said ?? null]));
  };
  channel.send(encoder.encode([FROM_ENGINE.hello, 0, { engine: "open", arguments: process.argv.slice(2) }]));
  meeting.leave();
}
