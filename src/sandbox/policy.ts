/**
 * Policies: what a worker may do, as JSON files, deny by default. This version knows how to deny the network, writing, and the change of
 * metadata; a policy that denies more is refused, never ignored: a worker must not run with less confinement than was asked for.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { ROOT } from "../base/install.ts";

/** The policy of a definition that names none. */
export const DEFAULT_POLICY = "trusted";

const FOLDER = join(ROOT, "policies");
const EXTENDS_MAX = 8;
const FILE_BYTES_MAX = 65_536;

const path = z.string().refine((text) => {
  return isAbsolute(text) && !text.split("/").includes("..");
}, 'must be an absolute path without ".."');

const schema = z.strictObject({
  version: z.literal(1),
  description: z.string().optional(),
  extends: z.string().optional(),
  network: z.strictObject({ mode: z.enum(["any", "none"]) }).optional(),
  files: z
    .strictObject({
      read: z.array(path).optional(),
      write: z.array(path).optional(),
      scratch: z.strictObject({ kind: z.literal("folder") }).optional(),
      metadata: z.enum(["allow", "deny"]).optional(),
    })
    .optional(),
});

/** With everything that it extends, and what is not said denied. */
export type Policy = {
  readonly name: string;
  readonly description: string;
  readonly network: "any" | "none";
  readonly read: readonly string[];
  readonly write: readonly string[];
  readonly hasScratch: boolean;
  readonly metadata: "allow" | "deny";
};

/** Names of those that ship. */
export function shippedPolicies(): string[] {
  return readdirSync(FOLDER)
    .filter((file) => file.endsWith(".json"))
    .map((file) => file.slice(0, -".json".length))
    .toSorted();
}

/** The name or the absolute path of a policy; its own where a definition names none. @throws IpcError POLICY_REFUSED */
export function choosePolicy(wanted: string | null): string {
  const policy = wanted ?? DEFAULT_POLICY;
  loadPolicy(policy);
  return policy;
}

/**
 * @param name of one that ships, or the path of a file
 * @throws IpcError POLICY_REFUSED if there is none, BAD_CONFIG with the place in the file
 */
export function loadPolicy(name: string): Policy {
  const chain: z.infer<typeof schema>[] = [];
  for (let next: string | undefined = name; next !== undefined; next = chain.at(-1)!.extends) {
    if (chain.length === EXTENDS_MAX)
      throw new IpcError("BAD_CONFIG", `policy ${name}: extends more than ${EXTENDS_MAX} others, or itself`);
    chain.push(readPolicy(next));
  }
  const merged = chain.toReversed().reduce((all, one) => ({ ...all, ...one }));
  return {
    name,
    description: merged.description ?? "",
    network: merged.network?.mode ?? "none",
    read: merged.files?.read ?? [],
    write: merged.files?.write ?? [],
    hasScratch: merged.files?.scratch !== undefined,
    metadata: merged.files?.metadata ?? "deny",
  };
}

/** @throws IpcError BAD_CONFIG that names the file, the place in it and what is wrong */
export function parsePolicy(text: string, where: string): z.infer<typeof schema> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `${where}: ${(error as Error).message}`);
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const { path: place, message } = result.error.issues[0]!;
  throw new IpcError("BAD_CONFIG", `${where}: ${["$", ...place].join(".")}: ${message}`, {
    hint: "ipcctl policy show no-network prints one that works",
  });
}

function readPolicy(name: string): z.infer<typeof schema> {
  const file = name.includes("/") ? name : join(FOLDER, `${name}.json`);
  if (!existsSync(file))
    throw new IpcError("POLICY_REFUSED", `no policy ${JSON.stringify(name)}`, {
      hint: `there are: ${shippedPolicies().join(", ")}; or give the path of a file`,
    });
  const text = readFileSync(file, "utf8");
  if (text.length > FILE_BYTES_MAX) throw new IpcError("BAD_CONFIG", `${file}: more than ${FILE_BYTES_MAX} bytes`);
  return parsePolicy(text, file);
}
