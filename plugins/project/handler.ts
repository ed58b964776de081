/** What the group works on, and what was said in its conversations. The host writes it, workers only read it. */
import type { Plugin } from "../../src/host/plugin.ts";
import { ProjectStore } from "../../src/stores/project-store.ts";
import { storeTools } from "../../src/stores/tools.ts";

type Page = { readonly after?: string; readonly count?: number };
type Messages = { readonly conversation_id: string; readonly before?: number; readonly count?: number };

const project: Plugin = ({ data }) =>
  storeTools(data, (folder, group) => new ProjectStore(folder, group), {
    get: (store, { conversation_id: id }: { readonly conversation_id?: string }) => ({
      project: store.get(),
      conversation: id === undefined ? null : store.conversation(id),
    }),
    conversations: (store, { after, count }: Page) => store.conversations(after, count),
    messages: (store, { conversation_id, before, count }: Messages) => ({
      ...store.messages(conversation_id, before, count),
      origin: `project:${conversation_id}`,
    }),
  });

export default project;
