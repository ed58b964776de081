/** examples/http-model as its README says. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Ipcctl } from "ipcctl";
import { pythonWithPackages } from "../packages.ts";
import { Home, ROOT, waitUntil } from "../home.ts";
import { skipUnless } from "../needs.ts";

const python = await pythonWithPackages();
const hasModel = !skipUnless(python !== undefined, "scikit-learn from PyPI", "examples/http-model");
const testModel = test.if(hasModel);

const SETOSA = { rows: [[5.1, 3.5, 1.4, 0.2]] };
let home: Home;
let url: string;
let server: Bun.Subprocess<"ignore", "pipe", "pipe">;

beforeAll(async () => {
  if (!hasModel) return;
  home = new Home();
  server = Bun.spawn([process.execPath, "--no-env-file", join(ROOT, "examples/http-model/server.ts"), "0"], {
    cwd: home.dir,
    env: { ...home.env, PYTHON: python },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const { value } = await server.stdout.getReader().read();
  url = /http:\S+/.exec(Buffer.from(value!).toString())![0];
}, 30_000);
afterAll(async () => {
  if (!hasModel) return;
  server.kill();
  await server.exited;
  await home[Symbol.asyncDispose]();
});

type Answer = { readonly status: number; readonly json: unknown };

async function predict(body: unknown): Promise<Answer> {
  const init = { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body), proxy: false };
  const response = await fetch(`${url}predict`, init as RequestInit);
  return { status: response.status, json: await response.json() };
}

/** Puts something else in place of the model, in the worker as it runs. */
async function replaceModel(code: string): Promise<void> {
  using ipc = new Ipcctl(await home.connect());
  await (await ipc.worker("model")).exec(code);
}

testModel("it predicts", async () => {
  const rows = [...SETOSA.rows, [6.7, 3, 5.2, 2.3]];
  const { status, json } = await predict({ rows });
  expect(status).toBe(200);
  expect(json).toEqual([
    { label: "setosa", probability: expect.any(Number) },
    { label: "virginica", probability: expect.any(Number) },
  ]);
});

testModel("what is no request for a prediction is refused", async () => {
  const outline = { status: 400, json: { error: expect.stringContaining("the body is not") } };
  for (const body of ["{", "null", "[]", { rows: 1 }, {}]) expect(await predict(body)).toEqual(outline);
  const response = await fetch(url, { proxy: false } as RequestInit);
  expect({ status: response.status, json: await response.json() }).toMatchObject({ status: 404, json: {} });
});

testModel("what scikit-learn refuses is told in its words", async () => {
  const wrong = (message: string): Answer => ({ status: 422, json: { error: expect.stringContaining(message) } });
  expect(await predict({ rows: [[1, 2, 3]] })).toEqual(wrong("ValueError: X has 3 features"));
  expect(await predict({ rows: [] })).toEqual(wrong("ValueError: Expected 2D array"));
  expect(await predict({ rows: [["a", 1, 2, 3]] })).toEqual(wrong("ValueError: dtype='numeric' is not compatible"));
  expect(await predict({ rows: [[{}, 1, 2, 3]] })).toEqual(wrong("TypeError: "));
  expect(await predict(`{"rows": [${"[".repeat(200)}${"]".repeat(200)}]}`)).toEqual(wrong("128"));
  expect((await predict(SETOSA)).status).toBe(200);
});

testModel("another exception is a fault of the server", async () => {
  await replaceModel("def classify(rows): raise KeyError('weights')");
  expect(await predict(SETOSA)).toEqual({ status: 500, json: { error: "KeyError: 'weights'" } });
});

testModel(
  "a request whose worker dies is a 503, and the next one is answered by the next run",
  async () => {
    const flag = join(home.dir, "began");
    await replaceModel(`def classify(rows):
    import time
    open(${JSON.stringify(flag)}, "w").close()
    time.sleep(600)`);
    const answer = predict(SETOSA);
    await waitUntil(() => existsSync(flag), "the prediction has begun");
    process.kill((await home.status("model")).pid!, "SIGKILL");
    expect(await answer).toEqual({ status: 503, json: { error: "model crashed (signal SIGKILL)" } });
    expect((await predict(SETOSA)).status).toBe(200);
  },
  30_000,
);

testModel(
  "a daemon that was killed changes nothing",
  async () => {
    await home.killDaemon();
    expect((await predict(SETOSA)).status).toBe(200);
    process.kill((await home.status("model")).pid!, "SIGKILL");
    await waitUntil(async () => (await predict(SETOSA)).status === 200, "the next run answers");
  },
  30_000,
);

testModel(
  "a worker that was stopped is a 503 until it is started",
  async () => {
    expect((await home.cli("stop", "model")).status).toBe(0);
    await waitUntil(async () => (await predict(SETOSA)).status === 503, "the server knows");
    expect((await predict(SETOSA)).json).toEqual({ error: "model is not running" });
    expect((await home.cli("start", "model")).status).toBe(0);
    expect((await predict(SETOSA)).status).toBe(200);
  },
  30_000,
);

testModel(
  "SIGTERM answers what is under way, and ends it cleanly; the worker runs on",
  async () => {
    const flag = join(home.dir, "again");
    await replaceModel(`def classify(rows):
    import os, time
    open(${JSON.stringify(flag)}, "w").close()
    while os.path.exists(${JSON.stringify(flag)}): time.sleep(0.001)
    return [{"label": "late", "probability": 1}]`);
    const { pid } = await home.status("model");
    const answer = predict(SETOSA);
    await waitUntil(() => existsSync(flag), "the prediction has begun");
    server.kill("SIGTERM");
    await waitUntil(
      () =>
        Bun.connect({ hostname: "127.0.0.1", port: Number(new URL(url).port), socket: { data: () => undefined } }).then(
          (socket) => (socket.end(), false),
          () => true,
        ),
      "it takes no more connections",
    );
    await Bun.file(flag).delete();
    expect(await answer).toEqual({ status: 200, json: [{ label: "late", probability: 1 }] });
    expect(await server.exited).toBe(0);
    expect(await new Response(server.stderr).text()).toBe("");
    expect(await home.status("model")).toMatchObject({ state: "Running", pid });
  },
  30_000,
);
