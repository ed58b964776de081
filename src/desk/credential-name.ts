/** Names of credentials. Parsed once, where they enter: everything behind trusts them to be harmless in a path. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";

export type CredentialName = {
  /** Null for one of the host itself. */
  readonly plugin: string | null;
  /** PLUGIN/NAME, or the name alone. A value is bound to it. */
  readonly full: string;
};

/**
 * A part of a name begins with a letter or digit, and is lower case: two names that differ in case alone would be taken
 * for each other by people, and by some file systems.
 */
const NAME = /^(?:([a-z0-9][a-z0-9_-]*)\/)?[a-z0-9][a-z0-9_-]*$/;

/** @param plugin in place of what stands before the slash. @throws IpcError USAGE */
export function parseCredentialName(text: string, plugin: string | null = null): CredentialName {
  const full = plugin === null ? text : `${plugin}/${text}`;
  const match = NAME.exec(full);
  if (match === null || full.split("/").some((part) => part.length > limit("nameChars")))
    throw new IpcError("USAGE", `${JSON.stringify(full)} cannot be the name of a credential`, {
      hint: `use NAME or PLUGIN/NAME, each of 1 to ${limit("nameChars")} characters: a to z, digits, '_' and '-'`,
    });
  return { plugin: match[1] ?? null, full };
}

export function existsAlready({ full }: CredentialName): IpcError {
  return new IpcError("FAILED", `the credential ${full} exists`, {
    hint: `ipcctl auth rotate ${full} gives it a new value`,
  });
}

/** @param known all that there are */
export function notFound(
  { full }: CredentialName,
  known: readonly { readonly name: string; readonly kind: "key" | "login" }[],
): IpcError {
  if (known.some(({ name }) => name === full))
    return new IpcError("NOT_FOUND", `${full} is a login, which its service renews`, {
      hint: `ipcctl auth login ${full} begins a new one`,
    });
  const ending = `/${full.split("/").at(-1)}`;
  const alike = new Set(known.map(({ name }) => name).filter((name) => name.endsWith(ending)));
  return new IpcError("NOT_FOUND", `there is no credential ${full}`, {
    hint: alike.size === 0 ? "ipcctl auth list shows them" : `it may be ${[...alike].join(" or ")}`,
  });
}
