/**
 * One other way to call Python from JavaScript, in Node, where all of them run:  node call-peers.mjs PEER FOLDER PYTHON
 * TIMES FOLDER has their packages and takes their files. Prints the nanoseconds of each echo of 64 bytes, as JSON.
 */
import { spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";

const [peer, folder, python, times] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const payload = Buffer.alloc(64, "x");
const text = "x".repeat(64);

const PEERS = {
  async zeromq() {
    const { Request } = require("zeromq");
    const address = `ipc://${join(folder, "zeromq.sock")}`;
    const child = run(
      "zeromq.py",
      `import sys, zmq
s = zmq.Context().socket(zmq.REP); s.bind(sys.argv[1])
while True: s.send(s.recv())`,
      address,
    );
    const socket = new Request();
    socket.connect(address);
    return {
      echo: async () => {
        await socket.send(payload);
        await socket.receive();
      },
      close: () => child.kill(),
    };
  },

  async grpc() {
    const grpc = require("@grpc/grpc-js");
    const path = join(folder, "grpc.sock");
    const child = run(
      "echo_grpc.py",
      `import sys, grpc
from concurrent import futures
server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"echo": handler}),))
server.add_insecure_port("unix:" + sys.argv[1]); server.start(); server.wait_for_termination()`,
      path,
    );
    for (; !existsSync(path);) await setTimeout(5);
    const client = new grpc.Client(`unix:${path}`, grpc.credentials.createInsecure());
    const same = (bytes) => bytes;
    return {
      echo: () =>
        new Promise((resolve, reject) =>
          client.makeUnaryRequest("/Echo/echo", same, same, payload, (error, answer) =>
            error ? reject(error) : resolve(answer),
          ),
        ),
      close: () => (client.close(), child.kill()),
    };
  },

  async pythonia() {
    process.env.PYTHON_BIN = python;
    writeFileSync(join(folder, "echo_pythonia.py"), "def echo(value): return value\n");
    const { python: load } = require("pythonia");
    const module = await load(join(folder, "echo_pythonia.py"));
    return { echo: () => module.echo(text), close: () => load.exit() };
  },

  async "python-shell"() {
    const { PythonShell } = require("python-shell");
    const path = join(folder, "echo_shell.py");
    writeFileSync(path, "import sys\nfor line in sys.stdin: print(line, end='', flush=True)\n");
    const shell = new PythonShell(path, { pythonPath: python, mode: "text" });
    let wake;
    shell.on("message", () => wake());
    return {
      echo: () =>
        new Promise((resolve) => {
          wake = resolve;
          shell.send(text);
        }),
      close: () => shell.kill(),
    };
  },

  async "node-calls-python"() {
    const path = join(folder, "echo_inside.py");
    writeFileSync(path, "def echo(value): return value\n");
    const { interpreter } = require("node-calls-python");
    const module = await interpreter.import(path);
    return { echo: () => interpreter.call(module, "echo", text), close: () => process.exit(0) };
  },
};

function run(name, code, ...args) {
  const path = join(folder, name);
  writeFileSync(path, code);
  return spawn(python, [path, ...args], { stdio: "ignore" });
}

const { echo, close } = await PEERS[peer]();
for (let index = 0; index < times / 5; index++) await echo();
const found = [];
for (let index = 0; index < times; index++) {
  const start = performance.now();
  await echo();
  found.push((performance.now() - start) * 1e6);
}
process.stdout.write(`${JSON.stringify(found)}\n`, () => {
  close();
  process.exit(0);
});
