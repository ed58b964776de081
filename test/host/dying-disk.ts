/**
 * Runs a script again and again, and kills it at each of its changes to the disk in turn, before and after that is
 * made: what SQLite does, which dying-fs.ts does not see.
 */
import { expect } from "bun:test";
import { join } from "node:path";

/**
 * @param script gets a folder of its own, and says what it has done
 * @param look at the folder, with the words that were said before the end. The last one is always there
 * @returns the first word of each last line: how far they came
 */
export async function dieAtEachChange(
  dir: string,
  script: string,
  look: (place: string, told: readonly string[][]) => void,
): Promise<string[]> {
  const library = join(dir, "dying-disk.so");
  const made = Bun.spawnSync(["cc", "-shared", "-fPIC", "-o", library, join(import.meta.dir, "dying-disk.c")]);
  expect(made.stderr.toString()).toBe("");
  const reached: string[] = [];
  const dieAt = async (at: number, isMade: boolean): Promise<boolean> => {
    const place = join(dir, `${at}${isMade}`);
    const dying = { DIE_BELOW: place, DIE_AT: String(at), ...(isMade ? { DIE_MADE: "1" } : {}) };
    const child = Bun.spawn([process.execPath, "--no-env-file", join(import.meta.dir, script), place], {
      env: { ...process.env, LD_PRELOAD: library, ...dying },
      stderr: "inherit",
    });
    const text = await new Response(child.stdout).text();
    await child.exited;
    const lines = text.trim().split("\n");
    const told = lines.map((line) => line.split(" "));
    look(place, told);
    reached.push(told.at(-1)![0]!);
    if (child.exitCode !== 0) expect(child.signalCode).toBe("SIGKILL");
    return child.exitCode !== 0;
  };
  for (let at = 1; (await Promise.all([dieAt(at, false), dieAt(at, true)])).some(Boolean);) at++;
  return reached;
}
