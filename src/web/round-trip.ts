/** One request over a connection that was checked, and as much of its answer as is wanted. */
import { request as requestOver, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { createBrotliDecompress, createGunzip, type BrotliDecompress, type Gunzip } from "node:zlib";
import { limit } from "../base/limits.ts";
import { ToolError } from "../host/plugin.ts";
import type { Headers } from "./headers.ts";
import { codeOf, reach, type Ways } from "./reach.ts";
import type { Site } from "./sites.ts";

export type Outgoing = {
  readonly url: URL;
  readonly method: string;
  readonly headers: Headers;
  readonly body: Uint8Array | undefined;
};

export type Incoming = {
  readonly status: number;
  /** Names and values in turn. */
  readonly rawHeaders: readonly string[];
  readonly body: Uint8Array;
  readonly isDecoded: boolean;
  readonly isTruncated: boolean;
};

/** Of what is asked for, how it is decompressed. */
const DECODERS: Readonly<Record<string, () => Gunzip | BrotliDecompress>> = {
  gzip: () => createGunzip(),
  "x-gzip": () => createGunzip(),
  br: () => createBrotliDecompress(),
};
const ACCEPTED = "gzip, br";
/** Of informational answers before the real one. */
const INFORMATIONAL_MAX = 8;

/**
 * @param signal its reason is what is thrown; before `untilMs` of performance.now()
 * @throws ToolError; MAYBE_DONE if a request that is not idempotent was sent and its answer did not come
 */
export async function roundTrip(
  { url, method, headers, body }: Outgoing,
  site: Pick<Site, "ca" | "allowsPrivate">,
  { ways, maxBytes, signal, untilMs }: { ways: Ways; maxBytes: number; signal: AbortSignal; untilMs: number },
): Promise<Incoming> {
  const socket = await reach(url, site, ways, signal, untilMs);
  const abort = (): void => void socket.destroy();
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    const response = await sendOver(socket, { url, method, headers, body });
    return await read(response, method === "HEAD" ? undefined : response.headers["content-encoding"], maxBytes);
  } catch (error) {
    throw toToolError(signal.aborted ? signal.reason : error, url.host, method !== "GET" && method !== "HEAD");
  } finally {
    signal.removeEventListener("abort", abort);
    socket.destroy();
  }
}

function sendOver(socket: Socket, { url, method, headers, body }: Outgoing): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const has = (header: string): boolean => headers.some(([name]) => name.toLowerCase() === header);
  const request = requestOver({
    ...{
      method,
      path: `${url.pathname}${url.search}`,
      host: url.hostname,
      setHost: false,
      createConnection: () => socket,
    },
    // The parser refuses what reaches its limit.
    ...{ maxHeaderSize: limit("webHeadBytes") + 1, insecureHTTPParser: false },
    headers: Object.fromEntries([
      ["Host", url.host],
      // A range would be one of the compressed body, of which a part decompresses to nothing.
      ["Accept-Encoding", has("range") ? "identity" : ACCEPTED],
      ...(has("user-agent") ? [] : [["User-Agent", "ipcctl"]]),
      ...headers,
      ...(body === undefined ? [] : [["Content-Length", `${body.length}`]]),
      ["Connection", "close"],
    ]),
  });
  let informational = 0;
  request.on("information", () => {
    if (++informational > INFORMATIONAL_MAX) request.destroy(new Error("it only announces an answer"));
  });
  request.on("upgrade", () => request.destroy(new Error("it changes the protocol")));
  request.on("error", reject);
  request.on("close", () => reject(new Error("it closed the connection")));
  request.on("response", resolve);
  request.end(body);
  return promise;
}

/** Reads no more than it has to: what comes after the limit may be without end, and grow as it is decompressed. */
function read(
  response: IncomingMessage,
  encoding: string | undefined,
  maxBytes: number,
): Promise<Pick<Incoming, "status" | "rawHeaders" | "body" | "isDecoded" | "isTruncated">> {
  const { promise, resolve, reject } = Promise.withResolvers<Incoming>();
  const name = encoding?.trim().toLowerCase() ?? "";
  const decoder = Object.hasOwn(DECODERS, name) ? DECODERS[name]!() : undefined;
  const chunks: Uint8Array[] = [];
  let size = 0;
  let wireBytes = 0;
  let isOver = false;
  let isCut = false;
  const end = (isTruncated: boolean): void => {
    isOver = true;
    response.destroy();
    decoder?.destroy();
    resolve({
      ...{ status: response.statusCode!, rawHeaders: response.rawHeaders, body: Buffer.concat(chunks) },
      ...{ isDecoded: decoder !== undefined, isTruncated },
    });
  };
  const take = (chunk: Uint8Array): void => {
    if (isOver) return;
    const taken = chunk.subarray(0, maxBytes - size);
    chunks.push(taken);
    size += taken.length;
    if (taken.length < chunk.length) end(true);
  };
  const fail = (error: unknown): void => {
    if (isOver) return;
    isOver = true;
    decoder?.destroy();
    reject(error);
  };
  const broken = (): void => {
    if (!response.complete && !isCut) fail(new Error("it broke off"));
  };
  for (const event of ["error", "aborted", "close"]) response.on(event, broken);
  if (decoder === undefined) {
    response.on("data", take);
    response.on("end", () => isOver || end(false));
    return promise;
  }
  decoder.on("data", take);
  decoder.on("error", fail);
  decoder.on("end", () => isOver || end(false));
  response.on("data", (chunk: Uint8Array) => {
    if (isOver || isCut) return;
    wireBytes += chunk.length;
    if (wireBytes <= limit("webWireBytes")) return void decoder.write(chunk);
    isCut = true;
    response.destroy();
    decoder.flush(() => isOver || end(true));
  });
  response.on("end", () => {
    if (isOver || isCut) return;
    if (wireBytes === 0) end(false);
    else decoder.end();
  });
  return promise;
}

function toToolError(error: unknown, host: string, mayBeDone: boolean): ToolError {
  const told =
    error instanceof ToolError
      ? error
      : new ToolError("BAD_ANSWER", `${host}: its answer broke off or is not HTTP${codeOf(error)}`, {
          retriable: true,
        });
  if (!mayBeDone) return told;
  return new ToolError("MAYBE_DONE", `${told.message}; it may have been carried out`);
}
