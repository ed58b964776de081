/** `setTimeout` and the like for the guest, `queueMicrotask`, and the console. */
import { inspect } from "./inspect.ts";
import { isOwn } from "./own-errors.ts";
import type { Session } from "./guest-session.ts";

const LONGEST_MS = 2 ** 31 - 1;

export class Timers {
  readonly #session: Session;
  readonly #active = new Map<number, { readonly timer: NodeJS.Timeout; readonly isInterval: boolean }>();
  #next = 1;

  constructor(session: Session) {
    this.#session = session;
    const { realm } = session;
    const fn = (name: string, act: (args: unknown[]) => unknown): void =>
      realm.define(
        name,
        realm.make.fn((args) => {
          try {
            return [false, act(args)];
          } catch (error) {
            const name = isOwn(error, RangeError) ? "RangeError" : "TypeError"; // without memory, or of an argument
            return [true, realm.make.error(name, (error as Error).message)];
          }
        }, name),
      );
    fn("setTimeout", (args) => this.#start(args, false));
    fn("setInterval", (args) => this.#start(args, true));
    fn("clearTimeout", (args) => this.#stop(args[0]));
    fn("clearInterval", (args) => this.#stop(args[0]));
    fn("queueMicrotask", (args) => {
      const act = needFunction("queueMicrotask", args[0]);
      realm.make.settle(
        undefined,
        () => void realm.make.apply(act, undefined, []),
        () => undefined,
      );
    });
  }

  get isAny(): boolean {
    return this.#active.size > 0;
  }

  get counts(): { readonly timers: number; readonly intervals: number } {
    const intervals = [...this.#active.values()].filter(({ isInterval }) => isInterval).length;
    return { timers: this.#active.size - intervals, intervals };
  }

  #start(args: unknown[], isInterval: boolean): number {
    const act = needFunction(isInterval ? "setInterval" : "setTimeout", args[0]);
    const asked = Number(args[1] ?? 0);
    const ms = asked >= 0 && asked <= LONGEST_MS ? asked : 0;
    const more: unknown[] = [];
    for (let at = 2; at < args.length; at++) more[at - 2] = args[at];
    const number = this.#next++;
    this.#session.tellUnasked();
    const run = (): void => {
      if (!isInterval) this.#active.delete(number);
      if (this.#session.isCancelled) {
        this.#stop(number);
        return;
      }
      this.#session.enterLater(() => void this.#session.realm.make.apply(act, undefined, more));
    };
    const timer = isInterval ? setInterval(run, Math.max(1, ms)) : setTimeout(run, ms);
    this.#active.set(number, { timer, isInterval });
    return number;
  }

  #stop(number: unknown): undefined {
    const found = this.#active.get(Number(number));
    if (found) clearTimeout(found.timer);
    this.#active.delete(Number(number));
    return undefined;
  }
}

function needFunction(name: string, value: unknown): Function {
  if (typeof value === "function") return value;
  throw new TypeError(`${name}: the first argument must be a function`);
}

const LEVELS = [
  ...["log", "info", "debug", "warn", "error", "trace"],
  ...["dir", "dirxml", "table", "group", "groupCollapsed"],
];
const SILENT = [
  "clear",
  "count",
  "countReset",
  "groupEnd",
  "time",
  "timeEnd",
  "timeLog",
  "profile",
  "profileEnd",
  "timeStamp",
  "record",
  "recordEnd",
  "screenshot",
  "takeHeapSnapshot",
];

/** Its methods do nothing while nobody wants to be told. */
function addConsole(session: Session): void {
  const { realm } = session;
  const console = realm.make.record({});
  for (const name of SILENT) console[name] = realm.make.fn(() => [false, undefined], name);
  for (const level of LEVELS)
    console[level] = realm.make.fn((args) => {
      if (session.isPrinting) session.print(level, shown(args));
      return [false, undefined];
    }, level);
  console.assert = realm.make.fn((args) => {
    if (session.isPrinting && !args[0]) {
      const why = args.length > 1 ? `: ${shown(args, 1)}` : "";
      session.print("error", `Assertion failed${why}`);
    }
    return [false, undefined];
  }, "assert");
  realm.define("console", console);
}

function shown(args: unknown[], from = 0): string {
  const first = args[from];
  let at = from;
  let text = "";
  if (typeof first === "string" && first.includes("%") && args.length > from + 1) {
    at += 1;
    text = first.replaceAll(PLACEHOLDER, (place) => {
      if (place === "%%") return "%";
      if (at >= args.length) return place;
      const value = args[at++];
      return place === "%c" ? "" : FOR_NUMBERS.has(place) ? numeral(value, place) : inspect(value);
    });
  }
  for (; at < args.length; at++) text += `${at === from ? "" : " "}${inspect(args[at])}`;
  return text.toWellFormed();
}

/** As console.log() of browsers has them. */
const PLACEHOLDER = /%[sdifjoOc%]/g;
const FOR_NUMBERS = new Set(["%d", "%i", "%f"]);

/** Runs no code of the guest: what is an object is no number. */
function numeral(value: unknown, place: string): string {
  if (typeof value === "bigint") return `${value}n`;
  const number = typeof value === "number" || typeof value === "string" ? Number(value) : Number.NaN;
  return String(place === "%i" ? Math.trunc(number) : number);
}

export function addTimers(session: Session): Timers {
  const timers = new Timers(session);
  session.add({ take: () => false, isTiming: () => timers.isAny });
  addConsole(session);
  return timers;
}
