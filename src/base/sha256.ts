/** What a digest is everywhere: of lines of the audit, requests, manifests and policies. */
import { hash } from "node:crypto";

/** The SHA-256 of bytes, or of a text in UTF-8, as 64 lower-case digits. */
export function sha256(what: string | Uint8Array): string {
  return hash("sha256", what);
}
