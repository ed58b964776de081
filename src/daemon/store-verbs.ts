/** The verbs of project files and of projects: what the host puts there for workers, and gets from them. */
import { IpcError } from "../base/errors.ts";
import { join } from "node:path";
import { data, success } from "../protocol/responses.ts";
import type { RequestOf, Tag } from "../protocol/verbs.ts";
import { FieldError, Groups } from "../stores/database.ts";
import { FileStore, type Target } from "../stores/file-store.ts";
import { ProjectStore } from "../stores/project-store.ts";
import type { VerbTable } from "./verb-table.ts";

/** In the folders that the plugins of these names have: workers ask them for what is here. */
export class Stores implements Disposable {
  readonly files: Groups<FileStore>;
  readonly projects: Groups<ProjectStore>;

  constructor(dataDir: string) {
    this.files = new Groups(join(dataDir, "files"), (folder, group) => new FileStore(folder, group));
    this.projects = new Groups(join(dataDir, "project"), (folder, group) => new ProjectStore(folder, group));
  }

  [Symbol.dispose](): void {
    this.files[Symbol.dispose]();
    this.projects[Symbol.dispose]();
  }
}

type StoreDeps = { readonly stores: Stores };

export type StoreTag = Extract<
  Tag,
  `${string}File` | "ListFiles" | "ShowProject" | "SetProject" | "ListConversations" | "ReadMessages" | "AddMessage"
>;

export const STORE_HANDLERS: VerbTable<StoreTag, StoreDeps> = {
  // Who only looks makes no group: its name may be a slip.
  ListFiles: async ({ group, conversation_id, name, after }, { stores: { files } }) => {
    const listing = { conversation_id, name: name ?? undefined, after: after ?? undefined };
    return data(files.has(group) ? await files.use(group, (store) => store.list(listing)) : { files: [], next: null });
  },
  ReadFile: async ({ group, id, offset, version }, { stores: { files } }) => {
    if (!files.has(group)) throw new IpcError("NOT_FOUND", `group ${JSON.stringify(group)} has no files`);
    const { content, ...piece } = await files.use(group, (store) =>
      store.read(id, offset, undefined, version ?? undefined),
    );
    return data({ ...piece, content: content.toString("base64") });
  },
  PutFile: async ({ group, content, upload, offset, more, ...target }, { stores: { files } }) =>
    data(
      await files.use(group, async (store) => {
        const under = upload ?? store.begin(targetOf(target), "host");
        try {
          store.add(under, offset, Buffer.from(content, "base64"), "host");
          return more ? { upload: under, file: null } : { upload: null, file: await store.commit(under, "host") };
        } catch (error) {
          if (upload === null) store.abandon(under, "host"); // its name is told to nobody
          throw error;
        }
      }),
    ),
  DeleteFile: async ({ group, id }, { stores: { files } }) => {
    const isGone = files.has(group) && (await files.use(group, (store) => store.delete(id, "host")));
    if (!isGone)
      throw new IpcError("NOT_FOUND", `no file of group ${JSON.stringify(group)} has the id ${JSON.stringify(id)}`);
    return success(`Deleted file ${id}`);
  },
  ShowProject: async ({ group, conversation_id: id }, { stores: { projects } }) => {
    if (!projects.has(group)) {
      if (id !== null) throw noConversation(group);
      return data({ project: { values: {}, conversations: 0 }, conversation: null });
    }
    return data(
      await projects.use(group, (store) => ({
        project: store.get(),
        conversation: id === null ? null : store.conversation(id),
      })),
    );
  },
  SetProject: async ({ group, conversation_id, values }, { stores: { projects } }) => {
    await projects.use(group, (store) => store.set(values, conversation_id));
    return success(`Set ${Object.keys(values).join(", ")}`);
  },
  ListConversations: async ({ group, after }, { stores: { projects } }) =>
    data(
      projects.has(group)
        ? await projects.use(group, (store) => store.conversations(after ?? undefined))
        : { conversations: [], next: null },
    ),
  ReadMessages: async ({ group, conversation_id, before }, { stores: { projects } }) => {
    if (!projects.has(group)) throw noConversation(group);
    return data(await projects.use(group, (store) => store.messages(conversation_id, before ?? undefined)));
  },
  AddMessage: async ({ group, conversation_id, role, text }, { stores: { projects } }) =>
    data(await projects.use(group, (store) => store.say(conversation_id, role, text, "host"))),
};

function noConversation(group: string): IpcError {
  return new IpcError("NOT_FOUND", `group ${JSON.stringify(group)} has no conversation`);
}

type Wanted = Pick<RequestOf<"PutFile">, "id" | "name" | "conversation_id" | "media_type">;

function targetOf({ id, name, conversation_id, media_type }: Wanted): Target {
  const more = media_type === null ? {} : { media_type };
  if (name !== null && id === null) return { name, conversation_id, ...more };
  if (id !== null && name === null && conversation_id === null) return { id, ...more };
  throw new FieldError("name", "give a name, or only the id of a file that is there");
}
