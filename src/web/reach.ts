/**
 * Connections to what a URL names. A name is resolved once, all of its addresses are checked, and the connection goes
 * to one of exactly these: what the name means later is of no account. TLS keeps the name.
 */
import { lookup } from "node:dns/promises";
import { connect as connectTo, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { checkServerIdentity, connect as secureOver } from "node:tls";
import { classesOf, isOfStub, parseAddress } from "../base/addresses.ts";
import { limit } from "../base/limits.ts";
import { ToolError } from "../host/plugin.ts";
import type { Site } from "./sites.ts";

/** How the world is reached; tests have their own. */
export type Ways = {
  /** All addresses of a name. */
  readonly resolve: (host: string) => Promise<readonly string[]>;
  readonly dial: (address: string, port: number) => Socket;
  /** Whether the policy of this process looks up names and checks addresses itself: its stub's stand for names. */
  readonly isGuarded: boolean;
};

export const SYSTEM: Ways = {
  resolve: async (host) => (await lookup(host, { all: true, order: "verbatim" })).map(({ address }) => address),
  dial: (address, port) => connectTo({ host: address, port }),
  isGuarded: false,
};

/** What `allow_private` cannot allow: nothing there is a site. */
const NEVER = ["metadata", "multicast"] as const;

/** What is no address, or has a zone, is taken for one that is always refused. */
const UNKNOWN = parseAddress("::")!;

/** A connection to the site, over which nothing has been sent yet. @throws ToolError */
export async function reach(
  url: URL,
  { ca, allowsPrivate }: Pick<Site, "ca" | "allowsPrivate">,
  ways: Ways,
  signal: AbortSignal,
  untilMs: number,
): Promise<Socket> {
  const name = url.hostname.replace(/^\[(.*)\]$/, "$1");
  const addresses = await addressesOf(name, allowsPrivate, ways, signal);
  const isSecure = url.protocol === "https:";
  let plain: Socket | undefined;
  for (const [index, address] of addresses.entries()) {
    const isLast = index === addresses.length - 1;
    const shareMs = isLast ? undefined : (untilMs - performance.now()) / (addresses.length - index);
    const socket = ways.dial(address, Number(url.port) || (isSecure ? 443 : 80));
    if (await opens(socket, "connect", signal, shareMs).catch(() => undefined)) {
      plain = socket;
      break;
    }
    signal.throwIfAborted();
  }
  if (plain === undefined) throw unreachable(`${url.host}: none of its addresses accepts a connection`);
  if (!isSecure) return plain;
  const secure = secureOver({
    ...{ socket: plain, ALPNProtocols: ["http/1.1"], rejectUnauthorized: true },
    ...(parseAddress(name) === undefined ? { servername: name } : {}),
    ...(ca === undefined ? {} : { ca }),
    checkServerIdentity: (_, certificate) => checkServerIdentity(name, certificate),
  });
  try {
    await opens(secure, "secureConnect", signal);
    return secure;
  } catch (error) {
    plain.destroy();
    signal.throwIfAborted();
    throw new ToolError("TLS_REFUSED", `${url.host}: no secure connection to it is possible${codeOf(error)}`);
  }
}

/** @throws ToolError if one of them may not be reached: who mixes them in tries something */
async function addressesOf(
  name: string,
  allowsPrivate: boolean,
  { resolve, isGuarded }: Ways,
  signal: AbortSignal,
): Promise<readonly string[]> {
  signal.throwIfAborted();
  const found =
    parseAddress(name) === undefined
      ? await raced(resolve(name), signal).catch((): readonly string[] => {
          signal.throwIfAborted();
          return [];
        })
      : [name];
  if (found.length === 0) throw unreachable(`${name}: the name has no address`);
  const own = ownAddresses();
  for (const text of found) {
    const address = parseAddress(text);
    if (isGuarded && text !== name && address !== undefined && isOfStub(address)) continue;
    const classes = classesOf(address ?? UNKNOWN);
    if (NEVER.some((one) => classes.has(one)))
      throw new ToolError("POLICY_REFUSED", `${name}: one of its addresses is of a kind that no site has`, {
        field: "url",
      });
    if (!allowsPrivate && (classes.size > 0 || own.has(String(address))))
      throw new ToolError(
        "POLICY_REFUSED",
        `${name}: one of its addresses is not public; the host's user can set allow_private for this site`,
        { field: "url" },
      );
  }
  return [...new Set(found)].slice(0, limit("webAddresses"));
}

/** This machine's, under which its services may listen for the machine alone. */
function ownAddresses(): ReadonlySet<string> {
  try {
    return new Set(
      Object.values(networkInterfaces()).flatMap((all) =>
        (all ?? []).flatMap(({ address }) => parseAddress(address.split("%")[0]!)?.join() ?? []),
      ),
    );
  } catch {
    return new Set(); // Where a policy hides them, it also guards them.
  }
}

/** Waits until the socket is ready. It is destroyed if it is not, or not within `ms`. */
async function opens(socket: Socket, event: string, signal: AbortSignal, ms?: number): Promise<true> {
  const { promise, resolve, reject } = Promise.withResolvers<true>();
  const timer =
    ms === undefined ? undefined : setTimeout(() => reject(new Error("it takes too long")), Math.max(0, ms));
  const abort = (): void => reject(signal.reason as Error);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort);
  socket.on("error", reject); // stays: an error after this is told by whoever reads
  socket.once(event, () => resolve(true));
  socket.once("close", () => reject(new Error("it was closed")));
  try {
    return await promise;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  }
}

/** Waits for something that cannot be given up itself. */
function raced<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const abort = (): void => reject(signal.reason as Error);
  signal.addEventListener("abort", abort);
  work.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  return promise;
}

function unreachable(message: string): ToolError {
  return new ToolError("UNREACHABLE", message, { retriable: true });
}

/** Messages of the system have addresses in them; its codes have not. */
export function codeOf(error: unknown): string {
  const { code } = error as { code?: unknown };
  return typeof code === "string" && /^[A-Z\d_]+$/.test(code) ? ` (${code})` : "";
}
