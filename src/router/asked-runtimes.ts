/** What a worker asks of its runtimes of JavaScript, which only the daemon can start. */
import { ToolError } from "../host/plugin.ts";
import type { Call } from "../host/pipeline.ts";
import { Refusal } from "../host/wire.ts";
import { askDesk, type Desk } from "./plugin-link.ts";

/** What the daemon says: an answer, or why it refuses. */
export type RuntimeAnswer =
  { readonly answer: object } | { readonly refused: { readonly code: string; readonly message: string } };

/** @throws ToolError with what the daemon says against it */
export async function askRuntime(call: Call, reach: () => Promise<Desk>): Promise<unknown> {
  let said: RuntimeAnswer | undefined;
  try {
    said = await askDesk(reach, async ({ runtime }) => {
      if (call.isGivenUp) return undefined;
      return (await runtime(call.session, call.tool!.manifest.name, call.args)) as RuntimeAnswer; // of our daemon
    });
  } catch (error) {
    return new Refusal("PLUGIN_UNAVAILABLE", `no daemon is there for a runtime: ${(error as Error).message}`);
  }
  if (said === undefined) return new Refusal("CANCELLED", "the worker gave it up before it was carried out");
  if ("answer" in said) return said.answer;
  throw new ToolError(said.refused.code, said.refused.message);
}
