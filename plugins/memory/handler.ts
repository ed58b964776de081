/** What agents remember from one session to the next. */
import type { Plugin, ToolRequest } from "../../src/host/plugin.ts";
import { MemoryStore, type MemoryFilter, type NewMemory, type Provenance } from "../../src/stores/memory-store.ts";
import { storeTools } from "../../src/stores/tools.ts";

type Id = { readonly id: string };

/** A worker tells where it has a memory from; who it is, the host says. */
const from = ({ worker, session, correlation }: ToolRequest): Provenance => ({
  writer: { worker },
  session,
  correlation,
});

const memory: Plugin = ({ data }) =>
  storeTools(data, (folder, group) => new MemoryStore(folder, group), {
    add: (store, args: NewMemory, request) => ({ memory: store.add(args, from(request)) }),
    supersede: (store, { id, ...args }: Id & NewMemory, request) => ({
      memory: store.supersede(id, args, from(request)),
    }),
    search: (store, { query, ...filter }: MemoryFilter & { readonly query: string }) => ({
      ...store.search(query, filter),
      origin: "memory",
    }),
    list: (store, filter: MemoryFilter & { readonly before?: string }) => ({ ...store.list(filter), origin: "memory" }),
    get: (store, { id }: Id) => ({ memory: store.get(id), origin: "memory" }),
    history: (store, { id }: Id) => ({ memories: store.history(id), origin: "memory" }),
  });

export default memory;
