/** Descriptors that another process sends: who is sent what it must not be keeps none of it. */
import { expect, test } from "bun:test";
import * as onNode from "../../src/plane/system-node.ts";
import * as onBun from "../../src/plane/system.ts";

const PACKET = Buffer.of(1, 2, 3, 4);

test.each([
  ["Bun", onBun],
  ["Node", onNode],
])("on %s, a packet with one descriptor is taken, and one of another form leaves none open", (_, system) => {
  const { closeFd, createLife, createPair, receiveFd, sendWithFds, SEQPACKET, waitReadable } = system;
  for (const [bytes, count] of [
    [PACKET, 1],
    [PACKET, 2],
    [PACKET, 3],
    [PACKET, 0],
    [Buffer.of(1), 1],
    [Buffer.of(1, 2, 3, 4, 5), 1],
  ] as const) {
    const [ours, theirs] = createPair(SEQPACKET);
    const [sent, end] = createLife();
    expect(sendWithFds(ours, bytes, Array<number>(count).fill(sent))).toBe(true);
    closeFd(sent);
    const taken = receiveFd(theirs, Buffer.alloc(PACKET.length));
    expect(taken !== undefined, `${bytes.length} bytes, ${count} descriptors`).toBe(bytes === PACKET && count === 1);
    if (taken !== undefined) closeFd(taken);
    // The pipe ends once nobody holds its other end.
    expect(waitReadable(end, 0), `${bytes.length} bytes, ${count} descriptors: all are closed`).toBe(true);
    for (const fd of [ours, theirs, end]) closeFd(fd);
  }
});
