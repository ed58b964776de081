/**
 * Waiting in tests. A deadline here tells that something hangs, not how fast it is: it grows with the load of the
 * machine, and what it says names what was waited for and shows the processes behind it. Bun's own is only the last
 * net, because Bun kills all that the file has started with it.
 */
import { loadavg } from "node:os";
import { sleep } from "../src/base/patience.ts";

/** What one condition may take on a machine that has nothing else to do. */
const CONDITION_MS = 30_000;
const TEST_MS = 60_000;
const HOOK_MS = 120_000;
/** A machine busier than this many times over is not tested on. */
const SLOWNESS_MAX = 10;
const REPORT_MS = 20_000;

/**
 * How many times slower than alone we are at the moment: by what the scheduler leaves us, and by who has queued in the
 * last minute.
 */
export function slowness(): number {
  const began = performance.now();
  const before = process.cpuUsage();
  let cpuMs = 0;
  while (cpuMs < 20 && performance.now() - began < 1000) {
    const { user, system } = process.cpuUsage(before);
    cpuMs = (user + system) / 1000;
  }
  const share = (performance.now() - began) / Math.max(cpuMs, 1);
  return Math.min(SLOWNESS_MAX, Math.max(1, share, loadavg()[0]! / navigator.hardwareConcurrency));
}

/** What is waited for at the moment, outermost first. */
const waits = new Set<{ readonly what: string; expire: () => void }>();

/** All that is waited for is late from now on, whatever the clock says: for tests of what happens then. */
export function expireAll(): void {
  for (const wait of waits) wait.expire();
}

/** Somebody who can tell more about what hangs, and can end it. */
export type Witness = { report(): Promise<string>; kill(): void };
export const witnesses = new Set<Witness>();

/** The value of the promise, or an error that names what was waited for. */
export async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  const error = new Error(); // made here, so that its stack shows who waited
  const wait = { what, expire: () => undefined as void };
  waits.add(wait);
  const began = performance.now();
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    const look = (): void => {
      const factor = slowness();
      const leftMs = began + ms * factor - performance.now();
      if (leftMs > 0) timer = setTimeout(look, leftMs);
      else expire(factor);
    };
    const expire = (factor: number): void => {
      const others = [...waits].filter((one) => one !== wait).map((one) => one.what);
      error.message = [
        `not within ${((ms * factor) / 1000).toFixed(1)} s: ${what}`,
        ...(others.length > 0 ? [`waiting for: ${others.join("; ")}`] : []),
        `the machine is ${factor.toFixed(1)} times slower than alone`,
      ].join("\n");
      void reports().then((text) => {
        error.message += `\n${text}`;
        reject(error);
      });
    };
    wait.expire = () => {
      clearTimeout(timer);
      expire(slowness());
    };
    timer = setTimeout(look, ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
    waits.delete(wait);
  }
}

async function reports(): Promise<string> {
  const all = Promise.all([...witnesses].map((witness) => witness.report().catch((error: Error) => error.message)));
  const late = sleep(REPORT_MS).then(() => [`no report within ${REPORT_MS / 1000} s`]);
  return (await Promise.race([all, late])).join("\n");
}

/** Looks again and again until it holds. */
export async function waitUntil(
  holds: () => boolean | Promise<boolean>,
  what: string,
  ms = CONDITION_MS,
): Promise<void> {
  let isOver = false;
  const looking = async (): Promise<void> => {
    while (!isOver && !(await holds())) await sleep(5);
  };
  try {
    await within(ms, what, looking());
  } finally {
    isOver = true;
  }
}

type Body = (...args: unknown[]) => unknown;
/** `test`, `test.each(table)`, `test.skipIf(condition)`, `beforeAll` and what else takes a body. */
type Registrar = (...args: unknown[]) => unknown;

/**
 * `bun:test` with a deadline around each body; what it takes by itself, as the number of milliseconds, is what it takes
 * alone.
 */
export function guardTests<Module extends object>(original: Module): Module {
  const registrars = original as Record<string, Registrar>;
  const guarded: Record<string, Registrar> = {};
  for (const name of ["test", "it"]) guarded[name] = guard(registrars[name]!, 1, TEST_MS, "the test");
  for (const name of ["beforeAll", "afterAll", "beforeEach", "afterEach"])
    guarded[name] = guard(registrars[name]!, 0, HOOK_MS, name);
  return { ...original, ...guarded };
}

function guard(registrar: Registrar, at: number, defaultMs: number, kind: string): Registrar {
  return new Proxy(registrar, {
    apply(target, _, args: unknown[]) {
      const [body, options] = [args[at], args[at + 1]];
      if (typeof body !== "function") {
        const result = target(...args);
        return typeof result === "function" ? guard(result as Registrar, at, defaultMs, kind) : result;
      }
      const given = typeof options === "object" ? (options as { timeout?: number }).timeout : (options as number);
      const ms = given ?? defaultMs;
      const label = at === 0 ? kind : `${kind} ${JSON.stringify(args[0])}`;
      const net = ms * SLOWNESS_MAX + REPORT_MS + 60_000;
      const more = typeof options === "object" ? { ...options, timeout: net } : net;
      return target(...args.slice(0, at), guardBody(body as Body, ms, label), more);
    },
    get(target, name) {
      const value: unknown = Reflect.get(target, name);
      return typeof value === "function" ? guard(value.bind(target) as Registrar, at, defaultMs, kind) : value;
    },
  });
}

function guardBody(body: Body, ms: number, label: string): Body {
  return async (...args) => {
    const before = new Set(witnesses);
    try {
      await within(ms, label, Promise.resolve(body(...args)));
    } catch (error) {
      // What it started and did not end would slow down all that follows.
      for (const witness of witnesses) if (!before.has(witness)) witness.kill();
      throw error;
    }
  };
}
