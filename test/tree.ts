/** Files of a test's own, which are gone after it. */
import { afterAll } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

/** Call it at the top of a file. `put` writes a file with the folders above it, and gives its path. */
export function temporaryTree(name: string): {
  readonly dir: string;
  readonly put: (path: string, text?: string, mode?: number) => string;
} {
  const dir = mkdtempSync(join(tmpdir(), `ipcctl-${name}-`));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  const put = (path: string, text = "", mode = 0o644): string => {
    const file = join(dir, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text, { mode });
    return file;
  };
  return { dir, put };
}
