/** Topics of events, `message.inbound`, and patterns of them, `message.*` and `git.**`. */
import { IpcError } from "./errors.ts";
import { limit } from "./limits.ts";

/** What begins with one of these comes from ipcctl itself, and from nobody else. */
const CORE = new Set(["agent", "plugin", "task", "tool"]);

const PART = /^[a-z0-9_-]+$/i;

const GRAMMAR = "words of letters, digits, '_' and '-', with dots between them";

/** @throws IpcError USAGE; POLICY_REFUSED for a topic of ipcctl's own */
export function requireTopic(text: string): string {
  const parts = partsOf(text);
  if (parts === undefined || !parts.every((part) => PART.test(part)))
    throw new IpcError("USAGE", `topic: ${quote(text)} is not a topic`, { hint: `a topic has ${GRAMMAR}` });
  if (CORE.has(parts[0]!.toLowerCase()))
    throw new IpcError("POLICY_REFUSED", `topic: ${quote(text)} is one that only ipcctl itself publishes`, {
      hint: `choose one that does not begin with ${[...CORE].join(", ")}`,
    });
  return text;
}

/**
 * `*` stands for one word, and `**` at the end for any number of them. Neither stands for the first word of ipcctl's
 * own topics: those are named, or a session for everything would start one for its own end.
 */
export class TopicPattern {
  readonly #parts: readonly string[];

  /** @throws IpcError USAGE */
  constructor(text: string) {
    const parts = partsOf(text);
    const isSound = (part: string, at: number): boolean =>
      PART.test(part) || part === "*" || (part === "**" && at === parts!.length - 1);
    if (parts === undefined || !parts.every(isSound))
      throw new IpcError("USAGE", `${quote(text)} is not a pattern of topics`, {
        hint: `it has ${GRAMMAR}; "*" stands for one word, "**" at the end for any number of them`,
      });
    this.#parts = parts;
  }

  matches(topic: string): boolean {
    const words = topic.split(".");
    const isOpen = this.#parts.at(-1) === "**";
    const fixed = isOpen ? this.#parts.slice(0, -1) : this.#parts;
    if (isOpen ? words.length < fixed.length : words.length !== fixed.length) return false;
    if (this.#parts[0]!.startsWith("*") && CORE.has(words[0]!.toLowerCase())) return false;
    return fixed.every((part, at) => part === "*" || part === words[at]);
  }
}

function partsOf(text: string): string[] | undefined {
  return text.length <= limit("topicChars") ? text.split(".") : undefined;
}

function quote(text: string): string {
  return JSON.stringify(text.length > limit("topicChars") ? `${text.slice(0, limit("topicChars"))}…` : text);
}
