/** One end of a ring in TypeScript: ring_peer.ts PATH produce|consume SEED FRAMES. As native/fuzz/ring_peer.c. */
import { SharedRingBuffer } from "ipcctl";
import { sleep } from "../../../src/base/patience.ts";

const [path, role, seed, frames] = process.argv.slice(2) as [string, string, string, string];
const [CAPACITY, LONGEST] = [4096, 1200];
const ring = new SharedRingBuffer(Bun.mmap(path, { shared: true }), 0, 256, CAPACITY, role === "produce");
let state = Number(seed);
let total = 2_166_136_261;
const step = (): number => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0);
const mix = (value: number): void => {
  total = Math.imul(total ^ value, 16_777_619) >>> 0;
};

for (let index = 0; index < Number(frames); index++) {
  let frame: Uint8Array | undefined;
  if (role === "produce") {
    frame = new Uint8Array((step() >>> 8) % LONGEST);
    for (let at = 0; at < frame.length; at++) frame[at] = step() >>> 24;
    while (!ring.trySend(frame)) await sleep(0);
    ring.needsBell();
  } else {
    while ((frame = ring.receiveSpin(100)) === undefined) {
      if (ring.prepareSleep()) await sleep(0);
      ring.cancelSleep();
    }
  }
  for (const byte of frame) mix(byte);
  mix(frame.length);
}
console.log(total);
