/** `project set|show|say`: what a group works on, which its workers get by the plugin `project`. */
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import { ROLES, type Role, type Values } from "../protocol/stored.ts";
import { inGroup, type ConversationFlag } from "./file-commands.ts";
import { jsonText, printable, type Context } from "./context.ts";

export type ShowFlags = ConversationFlag & { lines: number };

/** @param words `NAME=VALUE`; a value is JSON, or else text, and null removes one */
export async function setProject(
  context: Context,
  group: string,
  words: readonly string[],
  { conversation }: ConversationFlag,
): Promise<number> {
  const values = Object.fromEntries(words.map(pairOf));
  using connection = await context.connect();
  await connection.project(group).set(values, conversation);
  if (context.isJson) context.print(jsonText(values));
  else context.print(`${printable(conversation ?? group)}: set ${Object.keys(values).map(printable).join(", ")}`);
  return 0;
}

/** The values of the project, or those of a conversation and the last of what was said in it. */
export async function showProject(
  context: Context,
  group: string,
  { conversation: id, lines }: ShowFlags,
): Promise<number> {
  using connection = await context.connect();
  const project = connection.project(group);
  if (id === undefined) {
    const [shown, conversations] = [await project.show(), await project.conversations()];
    if (context.isJson) context.print(jsonText({ ...shown, conversations }));
    else {
      printValues(context, shown.values);
      for (const { conversation_id, messages } of conversations)
        context.print(
          `conversation ${printable(conversation_id)}: ${messages} ${messages === 1 ? "message" : "messages"}`,
        );
      if (conversations.length + Object.keys(shown.values).length === 0)
        context.note(`nothing is set${inGroup(group)}; for example: ipcctl project set ${shellWord(group)} name=Sales`);
    }
    return 0;
  }
  const conversation = await project.conversation(id);
  const messages = lines === 0 ? [] : await project.messages(id, lines);
  if (context.isJson) context.print(jsonText({ ...conversation, said: messages }));
  else {
    printValues(context, conversation.values);
    for (const { role, text } of messages)
      for (const line of text.split("\n")) context.print(`${role}: ${printable(line)}`);
  }
  return 0;
}

/** Adds a message. */
export async function say(
  context: Context,
  group: string,
  conversation: string,
  role: string,
  text: string,
): Promise<number> {
  if (!ROLES.includes(role as Role))
    throw new IpcError("USAGE", `project say: ${JSON.stringify(role)} is none of ${ROLES.join(", ")}`);
  const said = text === "-" ? await Bun.stdin.text() : text;
  using connection = await context.connect();
  const message = await connection.project(group).say(conversation, role as Role, said);
  context.print(context.isJson ? jsonText(message) : `${printable(conversation)}: message ${message.number}`);
  return 0;
}

function printValues(context: Context, values: Values): void {
  for (const [name, value] of Object.entries(values))
    context.print(`${printable(name)}: ${typeof value === "string" ? printable(value) : jsonText(value)}`);
}

function pairOf(word: string): [string, unknown] {
  const at = word.indexOf("=");
  if (at < 1)
    throw new IpcError("USAGE", `project set: ${JSON.stringify(word)} is not NAME=VALUE`, {
      hint: "for example: ipcctl project set web name=Sales 'goals=[\"grow\"]'",
    });
  const [name, text] = [word.slice(0, at), word.slice(at + 1)];
  try {
    return [name, JSON.parse(text) as unknown];
  } catch {
    return [name, text];
  }
}
