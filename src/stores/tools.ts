/** What the plugins `files`, `project` and `memory` have in common: tools on the store of the group that asks. */
import { IpcError } from "../base/errors.ts";
import { ToolError, type Running, type Tool, type ToolRequest } from "../host/plugin.ts";
import { FieldError, Groups, type GroupStore } from "./database.ts";

/** Checked by the schema in the manifest, so that each tool names the type of its own arguments. */
type StoreTool<S> = (store: S, args: never, request: ToolRequest) => unknown;

/**
 * Each tool gets the store of the group whose worker asks: which one that is, no argument can say.
 * @param open a store of one group
 */
export function storeTools<S extends GroupStore>(
  folder: string,
  open: (folder: string, group: string) => S,
  tools: Readonly<Record<string, StoreTool<S>>>,
): Running {
  const groups = new Groups(folder, open);
  const onStore =
    (tool: StoreTool<S>): Tool =>
    async (args, request) => {
      try {
        return await groups.use(request.group, (store) => tool(store, args as never, request));
      } catch (error) {
        throw toToolError(error);
      }
    };
  return {
    tools: Object.fromEntries(Object.entries(tools).map(([name, tool]) => [name, onStore(tool)])),
    shutdown: () => Promise.resolve(groups[Symbol.dispose]()),
  };
}

/**
 * What a store refuses, it says to whoever asks. An error of the system may name places on the host: it stays a crash,
 * which the audit has and the worker does not. Hints are commands of the host, which no worker can type.
 */
function toToolError(error: unknown): unknown {
  if (!(error instanceof IpcError) || error.cause !== undefined) return error;
  return new ToolError(error.code, error.message, error instanceof FieldError ? { field: error.field } : {});
}
