/** What a yes of a person is bound to, and whether what is about to be carried out is that. */
import { sha256 } from "../base/sha256.ts";
import type { HostTool } from "./host-tools.ts";
import type { JsonObject, Refusal } from "./wire.ts";

/** By names, so that whoever is asked can tell what it is; each digest is a SHA-256 in hex. */
export type Binding = {
  readonly worker: string;
  readonly session: string;
  readonly tool: string;
  /** Of the manifest, with the schema. */
  readonly manifest: string;
  readonly policy: string;
  /** Of the bytes as the worker sent them. */
  readonly request: string;
  /** Of the arguments as they are carried out. */
  readonly values: string;
};

/** What came of asking: refused, or what was allowed. */
export type Decision = {
  readonly refusal?: Refusal;
  /** By {@link sealOf}. */
  readonly approved?: string;
  /** Who decided. */
  readonly uid?: number | undefined;
  /** Permission for a session that covers it. */
  readonly grant?: string | undefined;
  /** For the audit alone. */
  readonly reason?: string | undefined;
};

/** A call whose tool is known. */
type Asked = {
  readonly worker: string;
  readonly session: string;
  readonly of: { readonly policy: { readonly digest: string } };
  readonly bytes: Uint8Array;
  readonly args: JsonObject;
};

/** @param tool what would carry it out */
export function bindingOf(call: Asked, { manifest }: HostTool): Binding {
  return {
    ...{ worker: call.worker, session: call.session, policy: call.of.policy.digest },
    ...{ tool: manifest.name, manifest: sha256(JSON.stringify(manifest)) },
    ...{ request: sha256(call.bytes), values: sha256(JSON.stringify(call.args)) },
  };
}

export function sealOf({ worker, session, tool, manifest, policy, request, values }: Binding): string {
  return sha256(JSON.stringify([worker, session, tool, manifest, policy, request, values]));
}
