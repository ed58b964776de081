/** Where every TypeScript process of ipcctl begins: the daemon or a command. */

const args = process.argv.slice(2);
const at = commandAt(args);
void begin();

/** No top-level `await`: Bun cannot compile a module with one ahead of time. */
async function begin(): Promise<void> {
  if (args[at] === "daemon" && isServing(args.slice(at + 1))) {
    const { runDaemon } = await import("./daemon/main.ts");
    await runDaemon([...args.slice(0, at), ...args.slice(at + 1)]);
  } else {
    const { runCli } = await import("./cli/main.ts");
    process.exitCode = await runCli(args);
  }
}

/** Global flags may stand before the command; two of them take a value. */
function commandAt(words: readonly string[]): number {
  let index = 0;
  while (index < words.length && words[index]!.startsWith("-"))
    index += words[index] === "--socket" || words[index] === "--color" ? 2 : 1;
  return index;
}

/** `daemon status|stop|restart` and help are commands; plain `daemon` serves. */
function isServing(words: readonly string[]): boolean {
  return !words.some((word) => ["status", "stop", "restart", "help", "-h", "--help"].includes(word));
}

export {};
