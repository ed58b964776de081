/** Asks the host by HTTP, where the worker was started with that transport, which is for development. */
import { limit } from "../base/limits.ts";
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
  await enter(signal);
  try {
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
  } finally {
    leave();
  }
}

let underWay = 0;
const waiting: (() => void)[] = [];

/** More than the listener takes at once would wait there, each with a descriptor of this program. */
async function enter(signal: AbortSignal): Promise<void> {
  if (underWay < limit("httpCalls")) underWay++;
  else await new Promise<void>((go) => waiting.push(go)); // in the place of one that leaves
  if (!signal.aborted) return;
  leave();
  signal.throwIfAborted();
}

function leave(): void {
  const next = waiting.shift();
  if (next === undefined) underWay--;
  else next();
}

/** No connection was made: nobody listens, as Bun says it and as Node does, or no descriptor or port is left. */
function isUnsent(error: unknown): boolean {
  const { code, cause } = error as { code?: string; cause?: { code?: string } };
  return code === "ConnectionRefused" || UNSENT.has(cause?.code ?? code ?? "");
}

const UNSENT = new Set(["ECONNREFUSED", "EMFILE", "ENFILE", "EADDRNOTAVAIL", "EAGAIN"]);
