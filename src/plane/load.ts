/** Whether the machine has an idle core: the kernel counts the idle time of all cores. */
import { readText } from "./system.ts";

export type Load = "busy" | "idle" | "unknown";

const METER_MS = 40;
/** Seconds between two readings after which their difference is out of date. */
const SPAN_MAX = 10;
/** Idle time of all cores together, as a fraction of one core. */
const IDLE_LEAST = 0.25;
const BUSY_MOST = 0.1;

export class LoadMeter {
  readonly #read: () => string;
  #readAt = Number.NEGATIVE_INFINITY;
  #up = 0;
  #idle = 0;
  #load: Load = "unknown";

  constructor(read = (): string => readText("/proc/uptime")) {
    this.#read = read;
  }

  /** Reads the counters at most every 40 ms. */
  load(now = performance.now()): Load {
    if (now - this.#readAt < METER_MS) return this.#load;
    this.#readAt = now;
    try {
      const [up = Number.NaN, idle = Number.NaN] = this.#read().split(" ").map(Number);
      this.#load = judge(up - this.#up, idle - this.#idle);
      this.#up = up;
      this.#idle = idle;
    } catch {
      this.#load = "unknown"; // /proc is missing
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
