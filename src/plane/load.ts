/** Whether the machine has a core with nothing to do: the kernel counts the idle time of all of them. */
import { readFileSync } from "node:fs";

export type Load = "busy" | "idle" | "unknown";

const METER_MS = 40;
/** Seconds between two readings beyond which their difference says nothing of now. */
const SPAN_MAX = 10;
/** Idle time of all cores, in parts of one. */
const IDLE_LEAST = 0.25;
const BUSY_MOST = 0.1;

export class LoadMeter {
  readonly #read: () => string;
  #readAt = Number.NEGATIVE_INFINITY;
  #up = 0;
  #idle = 0;
  #load: Load = "unknown";

  constructor(read = (): string => readFileSync("/proc/uptime", "latin1")) {
    this.#read = read;
  }

  /** Looks at most every 40 ms. */
  load(now = performance.now()): Load {
    if (now - this.#readAt < METER_MS) return this.#load;
    this.#readAt = now;
    try {
      const [up = Number.NaN, idle = Number.NaN] = this.#read().split(" ").map(Number);
      this.#load = judge(up - this.#up, idle - this.#idle);
      this.#up = up;
      this.#idle = idle;
    } catch {
      this.#load = "unknown"; // no /proc here
    }
    return this.#load;
  }
}

function judge(span: number, idle: number): Load {
  if (!(span > 0 && span < SPAN_MAX)) return "unknown";
  const part = idle / span;
  if (part > IDLE_LEAST) return "idle";
  return part < BUSY_MOST ? "busy" : "unknown";
}
