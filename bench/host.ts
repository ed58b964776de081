/**
 * What all stages of a host call cost beside what nobody gets around, in one process: `bun bench/host.ts`. An echo of
 * about 150 bytes through the whole pipeline, with its record in a chain of hashes as an audit has them, and the same
 * bytes through JSON.parse and JSON.stringify alone. Believe the ratio: both are measured in turns.
 */
import { createHash } from "node:crypto";
import { Buckets } from "../src/host/buckets.ts";
import { Grants, hostTool } from "../src/host/host-tools.ts";
import { HostChannel } from "../src/host/pipeline.ts";
import { median } from "./beside-hogs.ts";

const ROUNDS = 41;
const CALLS = 5000;

const echo = hostTool("echo", {
  ...{ name: "echo", description: "gives back what it gets", risk_level: "low", idempotent: true },
  arguments_schema: { type: "object", properties: { text: { type: "string" } }, additionalProperties: false },
});
let chain = "";
/** Time goes by so that the rate is never reached. */
let ms = 0;
const channel = new HostChannel(
  {
    tools: new Map([[echo.manifest.name, echo]]),
    buckets: new Buckets(() => ms),
    confirm: () => Promise.reject(new Error("nothing here is of high risk")),
    route: (call) => call.args,
    record: (entry) => {
      chain = createHash("sha256").update(chain).update(JSON.stringify(entry)).digest("hex");
      return true;
    },
    stateOf: () => "ready",
    now: () => (ms += 1),
    newId: () => crypto.randomUUID(),
  },
  {
    ...{ worker: "bench", id: "bench-1", group: "bench", policy: { name: "bench", digest: "" }, approvalMs: 0 },
    grants: new Grants(["echo.*"], { "echo.echo": "10000/s" }),
  },
);
const request = Buffer.from(
  JSON.stringify({ topic: "tool.invoke.echo.echo", correlation: "c-000001", arguments: { text: "x".repeat(64) } }),
);

/** µs of each. */
function perCall(once: () => unknown): number {
  const start = Bun.nanoseconds();
  for (let index = 0; index < CALLS; index++) once();
  return (Bun.nanoseconds() - start) / CALLS / 1000;
}

const rounds = Array.from({ length: ROUNDS }, () => {
  const bare = perCall(() => JSON.stringify(JSON.parse(request.toString())));
  const staged = perCall(() => channel.take(request));
  return { bare, staged, ratio: staged / bare };
});
const answer = channel.take(request);
if (typeof answer !== "string" || !answer.includes(`"result"`)) throw new Error("the echo was refused");
const of = (key: "bare" | "staged" | "ratio"): string => median(rounds.map((round) => round[key])).toFixed(2);
console.log(`JSON alone ${of("bare")} µs, all stages ${of("staged")} µs: ${of("ratio")} times as much`);
