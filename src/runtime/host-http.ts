/** Asks the host by HTTP, where the worker was started with that transport, which is for development. */
import { limit } from "../base/limits.ts";
import { sleep } from "../base/patience.ts";
import { Turns } from "../base/turns.ts";

/** Between two attempts to reach a listener that starts anew. */
const AGAIN_MS = 100;
/** More than the listener takes at once would wait there, each with a descriptor of this program. */
const turns = new Turns(limit("httpCalls"));

/**
 * Hanging up, by the signal, gives the call up.
 * @param note whether it may have been sent by now
 * @returns what the host answers, as JSON
 * @throws if it was sent, and the listener has ended; or the signal's reason
 */
export async function askByHttp(
  bytes: Uint8Array<ArrayBuffer>,
  signal: AbortSignal,
  note: (wasSent: boolean) => void,
): Promise<unknown> {
  const { IPCCTL_HOST_URL: url, IPCCTL_HOST_TOKEN: token } = process.env;
  using _turn = await turns.take(signal);
  for (;;)
    try {
      note(true);
      const headers = { authorization: `Bearer ${token}` };
      const answer = await fetch(`${url}/call`, { method: "POST", headers, body: bytes, signal });
      return await answer.json();
    } catch (error) {
      if (!isUnsent(error)) throw error;
      note(false);
      await sleep(AGAIN_MS);
      signal.throwIfAborted();
    }
}

/** No connection was made: nobody listens, as Bun says it and as Node does, or no descriptor or port is left. */
function isUnsent(error: unknown): boolean {
  const { code, cause } = error as { code?: string; cause?: { code?: string } };
  return code === "ConnectionRefused" || UNSENT.has(cause?.code ?? code ?? "");
}

const UNSENT = new Set(["ECONNREFUSED", "EMFILE", "ENFILE", "EADDRNOTAVAIL", "EAGAIN"]);
