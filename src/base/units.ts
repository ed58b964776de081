/** Durations and sizes as people write them (`10m`, `512M`), to milliseconds and bytes. */
import { IpcError } from "./errors.ts";

const DURATION_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
const SIZE_BYTES: Record<string, number> = { "": 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 };

/**
 * Milliseconds from `"10m"`, `"1h30m"`, `"500ms"` or a bare number, which counts in `bareUnit`.
 * @throws IpcError USAGE naming `what`.
 */
export function parseDurationMs(text: string, what: string, bareUnit: "ms" | "s" = "s"): number {
  const trimmed = text.trim().toLowerCase();
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * DURATION_MS[bareUnit]!);
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d|w))+$/.test(trimmed)) {
    throw new IpcError(
      "USAGE",
      `${what}: ${JSON.stringify(text)} is not a duration, write for example 500ms, 10s, 5m, 1h30m`,
    );
  }
  let total = 0;
  for (const [, amount, , unit] of trimmed.matchAll(/(\d+(\.\d+)?)(ms|s|m|h|d|w)/g)) {
    total += Number(amount) * DURATION_MS[unit!]!;
  }
  return Math.round(total);
}

/**
 * A moment in the past, in ms since the epoch: how long ago (`10m`), or a date with or without a time (`2026-11-20`,
 * `2026-11-20T19:20Z`), which is local where no zone is written.
 * @throws IpcError USAGE naming `what`
 */
export function parseMomentMs(text: string, what: string, nowMs: number): number {
  const trimmed = text.trim();
  if (!/^\d{4}-/.test(trimmed)) return nowMs - parseDurationMs(trimmed, what);
  // Without a time JavaScript takes the day for one of UTC.
  const ms = Date.parse(/^\d{4}-\d\d-\d\d$/.test(trimmed) ? `${trimmed}T00:00` : trimmed);
  if (!Number.isNaN(ms)) return ms;
  throw new IpcError(
    "USAGE",
    `${what}: ${JSON.stringify(text)} is not a time, write for example 10m, 2026-11-20 or 2026-11-20T19:20Z`,
  );
}

/** A whole number within bounds. @throws IpcError USAGE naming `what`, the text and the bounds */
export function parseCount(text: string, what: string, min = 0, max = Number.MAX_SAFE_INTEGER): number {
  const value = /^\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  const bounds = max === Number.MAX_SAFE_INTEGER ? `of ${min} or more` : `from ${min} to ${max}`;
  throw new IpcError("USAGE", `${what}: ${JSON.stringify(text)} is not a whole number ${bounds}`);
}

/** Bytes from `"512M"`, `"1.5GiB"` or a bare number. Powers of 1024. @throws IpcError USAGE naming `what`. */
export function parseSizeBytes(text: string, what: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?$/i.exec(text.trim());
  if (!match) {
    throw new IpcError("USAGE", `${what}: ${JSON.stringify(text)} is not a size, write for example 512M, 2G, 65536`);
  }
  return Math.round(Number(match[1]) * SIZE_BYTES[match[2]!.toLowerCase()]!);
}

/** With less, the kernel kills a program before it starts, without a message. A bare `512` probably meant more, too. */
const MEMORY_BYTES_MIN = 1_048_576;

/** Returns the bytes. @throws IpcError USAGE naming `what` for a limit below which no program can run */
export function requireMemory(bytes: number, what: string): number {
  if (bytes >= MEMORY_BYTES_MIN) return bytes;
  throw new IpcError("USAGE", `${what}: ${bytes} bytes are too few for any program, at least 1M is needed`, {
    hint: `a number without a letter is bytes; for mebibytes write for example ${bytes >= 16 ? bytes : 512}M`,
  });
}

/** A memory limit, as {@link parseSizeBytes} reads it. @throws IpcError USAGE naming `what` */
export function parseMemoryBytes(text: string, what: string): number {
  return requireMemory(parseSizeBytes(text, what), what);
}

/** `12.3 MiB`-style text with at most four digits, for tables. */
export function formatBytes(bytes: number): string {
  const units = ["B", "K", "M", "G", "T"];
  let value = bytes;
  let index = 0;
  while (value >= 1024 && index < units.length - 1) {
    value /= 1024;
    index++;
  }
  return `${index === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)}${units[index]}`;
}

/** `3d 4h`, `5m 10s`, `12s`: two units at most, for tables. */
export function formatUptime(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${s % 60}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h ${Math.floor((s % 3600) / 60)}m`;
  return `${Math.floor(s / 86_400)}d ${Math.floor((s % 86_400) / 3600)}h`;
}
