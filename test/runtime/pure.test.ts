/** The same tests with workers whose Python has no C extension. */
process.env.IPCCTL_TEST_PURE = "1";
for (const name of ["calls", "sharing", "hostile", "busy-poll", "interrupts", "beside", "remains"])
  await import(`./${name}.test.ts?pure`);
delete process.env.IPCCTL_TEST_PURE;
export {};
