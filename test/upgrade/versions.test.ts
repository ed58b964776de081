/** Sides of other versions, as far as one of them can be had without its binaries. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { Home } from "../home.ts";

let home: Home;
let ipc: Ipcctl;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect(), () => home.connect());
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

const script = (name: string, least: number, most: number): string =>
  home.script(
    `${name}.py`,
    `
import threading, time
import ipcctl, ipcctl._contract as contract
contract.SEGMENT_VERSION_MIN, contract.SEGMENT_VERSION = ${least}, ${most}
def greet():
    with ipcctl.pipe("one") as pipe:
        pipe.send(b"hello")
        pipe.receive()  # the end
threading.Thread(target=greet, daemon=True).start()
@ipcctl.expose
def nap(): time.sleep(600)
ipcctl.serve()
`,
  );

test("one that is older than its shim: calls, pipes and interrupts", async () => {
  const py = await ipc.start(script("elder", 2, 2), { cwd: home.dir });
  using pipe = await py.pipe("one");
  expect(Buffer.from((await pipe.receive())!).toString()).toBe("hello");
  const late = await py.callWith("nap", [], { timeout: 100 }).catch((error: Error) => error);
  expect(late).toMatchObject({ code: "DEADLINE" });
  expect(await py.eval("1 + 1")).toBe(2); // it was interrupted
});

test("one that knows none of ours says so, and what to do", async () => {
  await home.start("stranger", script("stranger", 98, 99));
  const error = await ipc.worker("stranger").catch((one: Error) => one);
  expect(error).toMatchObject({ code: "FAILED", hint: "ipcctl restart stranger" });
  expect((error as Error).message).toMatch(
    /^stranger takes no channel: .* a version of ipcctl that this one cannot speak to$/,
  );
  expect(await home.cli("restart", "stranger")).toMatchObject({ status: 0 });
  expect((await home.cli("eval", "stranger", "1")).stderr).toContain("ipcctl restart stranger");
});

test("the daemon speaks the protocol before as well, and refuses older ones by number", async () => {
  using connection = await home.connect();
  const hello = (protocol: number): Promise<unknown> =>
    connection.request({ Hello: { protocol, client: "a test" } }).then(
      (answer) => (answer as { Data: { data: { protocol: number } } }).Data.data.protocol,
      (error: Error) => error.message,
    );
  expect(await Promise.all([hello(1), hello(2), hello(3)])).toEqual([1, 2, 2]);
  expect(await hello(0)).toBe("protocol 0 is too old, this daemon speaks 1 and 2");
});
