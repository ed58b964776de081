export async function runDaemon(_args: readonly string[]): Promise<void> {}
