/** When a task comes due: a cron pattern in a time zone, over every change of the clock. */
import { Cron } from "croner";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";

/** What `cron` of an app takes as well: numbers and names, lists, ranges, steps. croner would take more. */
const ITEM = /^(\*|(\d+|[a-z]{3})(-(\d+|[a-z]{3}))?)(\/\d+)?$/i;
const NICKNAME = /^@[a-z]+$/i;
const FIELDS = 5;
/** Where dates end that croner and Intl can reckon with: a clock may say anything. */
const LAST_MS = Date.UTC(9999, 0);

const HINT = 'five fields are minute, hour, day, month and weekday, for example "30 2 * * mon-fri"; or write @daily';

export class Pattern {
  readonly text: string;
  /** An IANA name, as the system spells it. */
  readonly zone: string;
  readonly #cron: Cron;

  /**
   * A time that a day leaves out comes due right after the gap; one that a day has twice, once. A pattern with `*` or a
   * step in minute or hour follows the clock instead: it skips what the day leaves out, and comes due in both hours.
   * @param zone without one, that of this process
   * @throws IpcError USAGE
   */
  constructor(text: string, zone: string | null = null) {
    this.text = text.trim().replaceAll(/\s+/g, " ");
    this.zone = requireZone(zone);
    requireShape(this.text);
    try {
      this.#cron = new Cron(this.text, {
        ...{ timezone: this.zone, mode: "5-part", fixedTimeRule: "no-wildcard", paused: true },
      });
    } catch (error) {
      throw wrong(this.text, (error as Error).message.replace(/^Cron\w+: /, ""));
    }
    if (this.next(0) === null) throw wrong(this.text, "no year has such a day", null);
  }

  /** The first time after the given one, or null. */
  next(afterMs: number): number | null {
    return this.#cron.nextRun(new Date(clamp(afterMs)))?.getTime() ?? null;
  }

  /** The newest times after the first one and up to the second, at most so many; the oldest of them first. */
  between(afterMs: number, untilMs: number, count: number): number[] {
    const first = this.next(afterMs);
    if (first === null || first > untilMs) return [];
    const second = this.next(first);
    if (second === null || second > untilMs) return [first];
    return this.#cron
      .previousRuns(count, new Date(clamp(untilMs + 1)))
      .map((date) => date.getTime())
      .filter((ms) => ms > afterMs)
      .toReversed();
  }
}

function clamp(ms: number): number {
  return Math.min(Math.max(ms, 0), LAST_MS);
}

function requireZone(wanted: string | null): string {
  try {
    const zone = new Intl.DateTimeFormat("en", wanted === null ? {} : { timeZone: wanted }).resolvedOptions().timeZone;
    if (!/^[+-]/.test(zone)) return zone;
  } catch {
    // told below
  }
  throw new IpcError("USAGE", `timezone: ${JSON.stringify(wanted?.slice(0, 64))} is not the name of a time zone`, {
    hint: "write for example Europe/Berlin or UTC",
  });
}

function requireShape(text: string): void {
  if (text.length > limit("cronChars"))
    throw wrong(`${text.slice(0, 64)}…`, `${text.length} characters are too many, at most ${limit("cronChars")}`);
  if (NICKNAME.test(text)) return;
  const fields = text === "" ? [] : text.split(" ");
  if (fields.length !== FIELDS) throw wrong(text, `there are ${fields.length} fields instead of ${FIELDS}`);
  const strange = fields.find((field) => !field.split(",").every((item) => ITEM.test(item)));
  if (strange !== undefined) throw wrong(text, `${JSON.stringify(strange)} is not understood`);
}

function wrong(text: string, why: string, hint: string | null = HINT): IpcError {
  return new IpcError("USAGE", `cron: ${JSON.stringify(text)}: ${why}`, hint === null ? {} : { hint });
}
