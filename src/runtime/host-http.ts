/** Asks the host by HTTP, where the worker was started with that transport, which is for development. */
import { sleep } from "../base/patience.ts";

/** Between two attempts to reach a listener that starts anew. */
const AGAIN_MS = 100;

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
  for (;;)
    try {
      note(true);
      const headers = { authorization: `Bearer ${token}` };
      const answer = await fetch(`${url}/call`, { method: "POST", headers, body: bytes, signal });
      return await answer.json();
    } catch (error) {
      if (!isRefused(error)) throw error;
      note(false);
      await sleep(AGAIN_MS);
      signal.throwIfAborted();
    }
}

/** Nobody listens. As Bun says it, and as Node does. */
function isRefused(error: unknown): boolean {
  const { code, cause } = error as { code?: string; cause?: { code?: string } };
  return code === "ConnectionRefused" || cause?.code === "ECONNREFUSED";
}
