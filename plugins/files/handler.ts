/** The files of a project, for workers: read what the host put there, write results beside it. */
import { ToolError, type Plugin, type ToolRequest } from "../../src/host/plugin.ts";
import { FileStore, type Listing, type Piece, type StoredFile, type Target } from "../../src/stores/file-store.ts";
import { storeTools } from "../../src/stores/tools.ts";

type Config = { readonly max_bytes?: number; readonly max_files?: number };
type Encoding = "utf8" | "base64";
type Read = {
  readonly id: string;
  readonly offset?: number;
  readonly length?: number;
  readonly encoding?: Encoding;
  readonly version?: string;
};
type Write = {
  readonly id?: string;
  readonly name?: string;
  readonly conversation_id?: string;
  readonly media_type?: string;
  readonly content: string;
  readonly encoding?: Encoding;
  readonly upload?: string;
  readonly offset?: number;
  readonly more?: boolean;
};

const files: Plugin<Config | undefined> = ({ config, data }) => {
  const quota = {
    ...(config?.max_bytes === undefined ? {} : { bytes: config.max_bytes }),
    ...(config?.max_files === undefined ? {} : { files: config.max_files }),
  };
  return storeTools(data, (folder, group) => new FileStore(folder, group, quota), {
    list: (store, args: Listing) => store.list(args),
    read: (store, { id, offset, length, encoding = "utf8", version }: Read) =>
      encoded(store.read(id, offset, length, version), encoding),
    write,
    delete: (store, { id }: { readonly id: string }, { worker }) => ({ deleted: store.delete(id, { worker }) }),
  });
};

export default files;

/** Where it comes from stands beside it, so that a reader can tell data from instructions. */
function encoded(
  { file, offset, content, next_offset }: Piece,
  encoding: Encoding,
): Omit<Piece, "content"> & { readonly content: string; readonly encoding: Encoding; readonly origin: string } {
  const origin = `files:${file.id}`;
  if (encoding === "base64")
    return { file, offset, content: content.toString("base64"), encoding, next_offset, origin };
  let text: string;
  try {
    // What is left of a character at the end of a piece belongs to the next one.
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    text = decoder.decode(content, { stream: next_offset !== null });
  } catch {
    throw new ToolError("NOT_TEXT", `file ${file.id} is not UTF-8 from ${offset} on: ask with the encoding base64`, {
      field: "encoding",
    });
  }
  const end = next_offset === null ? null : offset + Buffer.byteLength(text);
  return { file, offset, content: text, encoding, next_offset: end, origin };
}

/** A whole content, or a piece of one: nobody sees it before the last one has come. */
async function write(
  store: FileStore,
  args: Write,
  { worker }: ToolRequest,
): Promise<{ readonly file: StoredFile } | { readonly upload: string; readonly next_offset: number }> {
  const { upload, offset = 0, more = false } = args;
  const content = decoded(args);
  const writer = { worker };
  if (upload === undefined && offset !== 0)
    throw new ToolError("USAGE", "offset: a content begins at 0; what has begun has an upload", { field: "offset" });
  const under = upload ?? store.begin(targetOf(args), writer);
  try {
    store.add(under, offset, content, writer);
    if (more) return { upload: under, next_offset: offset + content.length };
    return { file: await store.commit(under, writer) };
  } catch (error) {
    if (upload === undefined) store.abandon(under, writer); // its name is told to nobody
    throw error;
  }
}

function targetOf({ id, name, conversation_id, media_type }: Write): Target {
  if ((id === undefined) === (name === undefined))
    throw new ToolError("USAGE", "name: give the name of a file, or the id of one that is there", { field: "name" });
  if (id === undefined) return { name: name!, conversation_id, media_type };
  if (conversation_id === undefined) return { id, media_type };
  throw new ToolError("USAGE", "conversation_id: a file that is there stays in its conversation", {
    field: "conversation_id",
  });
}

function decoded({ content, encoding = "utf8" }: Write): Buffer {
  const bytes = Buffer.from(content, encoding);
  const isWhole = encoding === "base64" ? bytes.toString("base64") === content : content.isWellFormed();
  if (isWhole) return bytes;
  throw new ToolError("USAGE", `content: it is not ${encoding === "base64" ? "base64 with padding" : "text"}`, {
    field: "content",
  });
}
