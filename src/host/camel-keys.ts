/** For scripts that write `conversationId` where schemas have `conversation_id`, as those do that ask by lines. */
import type { Checked } from "./host-tools.ts";

/** Words that begin with capitals, but for the first one. */
const CAMEL = /^[a-z][a-z0-9]*(?:[A-Z][a-z0-9]*)+$/;

/** The same arguments with their own keys as schemas spell them; what is within them stays as it is. */
export function toSnakeKeys(args: Readonly<Record<string, unknown>>): Checked {
  const names = Object.keys(args);
  if (!names.some((name) => CAMEL.test(name))) return { args };
  const spelled = new Map<string, unknown>();
  for (const name of names) {
    const key = CAMEL.test(name) ? name.replaceAll(/[A-Z]/g, (capital) => `_${capital.toLowerCase()}`) : name;
    if (spelled.has(key)) return { wrong: "it stands twice, in two spellings", field: key };
    spelled.set(key, args[name]);
  }
  return { args: Object.fromEntries(spelled) };
}
