/** Writes to a standard stream that may be a full pipe. */
import { write as writeFile } from "node:fs";
import { sleep } from "../base/patience.ts";

/**
 * Writes from a thread that may block, the only reliable way: Bun's own writer to a full pipe writes parts of it twice.
 * If the reader is gone, the command ends quietly.
 */
export async function put(fd: number, text: Uint8Array): Promise<void> {
  for (let at = 0; at < text.length;) {
    try {
      at += await writeSome(fd, text, at);
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "EPIPE") process.exit(0);
      if (code !== "EAGAIN") throw error;
      await sleep(1); // the pipe was left non-blocking, and it is full
    }
  }
}

function writeSome(fd: number, bytes: Uint8Array, from: number): Promise<number> {
  return new Promise((resolve, reject) =>
    writeFile(fd, bytes, from, bytes.length - from, (error, count) => (error ? reject(error) : resolve(count))),
  );
}
