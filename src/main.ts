/** Where every process of ipcctl in TypeScript begins: the daemon or a call of the command line. */

if (process.argv[2] === "daemon" && isServing(process.argv.slice(3))) {
  const { runDaemon } = await import("./daemon/main.ts");
  await runDaemon(process.argv.slice(3));
} else {
  const { runCli } = await import("./cli/main.ts");
  process.exitCode = await runCli(process.argv.slice(2));
}

/** `daemon status|stop|restart` and help are calls of the command line; plain `daemon` serves. */
function isServing(args: readonly string[]): boolean {
  return !args.some((arg) => ["status", "stop", "restart", "help", "-h", "--help"].includes(arg));
}

export {};
