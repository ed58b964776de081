/** What a webhook has delivered, and whether the one who knows its secret has sent it. */
import { createHmac, timingSafeEqual } from "node:crypto";
import { limit } from "../base/limits.ts";

/** Names of headers in small letters. */
export type Delivery = { readonly headers: Readonly<Record<string, string>>; readonly body: Uint8Array };

/** Of a delivery that is signed. */
export type Signed = {
  /** The same for the same delivery, however often it is sent. */
  readonly key: string;
};

/**
 * Two forms: `X-Hub-Signature-256`, as GitHub and many others send it, of the body alone; and that of Standard
 * Webhooks, of id, time and body, which nobody can send again under another id or later.
 * @returns undefined if it is not signed by this secret; nobody is told more
 */
export function readSigned({ headers, body }: Delivery, secret: string, nowMs: number): Signed | undefined {
  const standard = headers["webhook-signature"];
  if (standard !== undefined) return readStandard(standard, { headers, body }, secret, nowMs);
  const [, digest] = /^sha256=([0-9a-f]{64})$/.exec(headers["x-hub-signature-256"] ?? "") ?? [];
  const hash = hmac(secret, body);
  if (!isEqual(Buffer.from(digest ?? "", "hex"), hash)) return undefined;
  const id = headers["x-github-delivery"] ?? headers["x-delivery-id"];
  // Without an id the same content is the same delivery.
  return keyOf(id ?? `sha256 ${hash.toString("hex")}`);
}

const SECRET_PREFIX = "whsec_";

function readStandard(signatures: string, { headers, body }: Delivery, secret: string, nowMs: number) {
  const { "webhook-id": id = "", "webhook-timestamp": seconds = "" } = headers;
  const key = secret.startsWith(SECRET_PREFIX) ? Buffer.from(secret.slice(SECRET_PREFIX.length), "base64") : secret;
  const hash = hmac(key, `${id}.${seconds}.`, body);
  // A sender that changes its secret sends several.
  const isSigned = signatures
    .split(" ", SIGNATURES)
    .map((one) => isEqual(Buffer.from(one.startsWith("v1,") ? one.slice(3) : "", "base64"), hash))
    .includes(true);
  const isTimely = /^\d{1,12}$/.test(seconds) && Math.abs(nowMs - Number(seconds) * 1000) <= limit("webhookAgeMs");
  return isSigned && isTimely && id !== "" ? keyOf(id) : undefined;
}

/** Of one delivery that are looked at. */
const SIGNATURES = 8;

function hmac(secret: string | Uint8Array, ...parts: readonly (string | Uint8Array)[]): Buffer {
  const sum = createHmac("sha256", secret);
  for (const part of parts) sum.update(part);
  return sum.digest();
}

/** Takes as long whatever of it differs. */
function isEqual(given: Uint8Array, wanted: Uint8Array): boolean {
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

/** As short as the key of an event may be. */
function keyOf(id: string): Signed | undefined {
  return Buffer.byteLength(id) <= limit("eventKeyBytes") && /^[\x21-\x7e ]+$/.test(id) ? { key: id } : undefined;
}

/** @returns what the event is about: JSON, or else a text; undefined if it is neither */
export function contentOf(body: Uint8Array): { readonly data: unknown } | undefined {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch {
    return undefined;
  }
  try {
    return { data: JSON.parse(text) as unknown };
  } catch {
    return { data: text };
  }
}
