/**
 * Stands in for the API of a model, and for the place where the team reads: POST /v1/messages answers as a model's API
 * does, by a script, and to nobody without the key; POST /team prints what it is told. See agent.ts.
 */
const KEY = "only-for-this-example";
const port = Number(process.env.MODEL_PORT ?? 8095);

const SUM = `I add up the sales of each region.
\`\`\`python
import csv, io

[file] = host.files.list(name="sales.csv")["files"]
totals = {}
for row in csv.DictReader(io.StringIO(host.files.read(id=file["id"])["content"])):
    totals[row["region"]] = totals.get(row["region"], 0) + float(row["total"])
print(totals)
\`\`\``;

const tell = (what: string): string => `I tell the team.
\`\`\`python
answer = host.http.send(url="http://127.0.0.1:${port}/team", method="POST", body=${JSON.stringify(what)})
print(answer["status"])
\`\`\``;

const MISBEHAVE = `I look around.
\`\`\`python
import socket, subprocess

def attempt(what, work):
    try:
        print(what, "worked:", work())
    except Exception as error:
        print(what, "failed:", getattr(error, "code", type(error).__name__))

attempt("reading the home", lambda: open(${JSON.stringify(`${process.env.HOME}/.ssh/id_ed25519`)}).read())
attempt("reading what ipcctl keeps", lambda: open(${JSON.stringify(`${process.env.IPCCTL_HOME}/host.json`)}).read())
attempt("connecting out", lambda: socket.create_connection(("127.0.0.1", ${port}), 5))
attempt("starting a program", lambda: subprocess.run(["/bin/sh", "-c", "id"]))
attempt("asking the model", lambda: host.http.ask(url="http://127.0.0.1:${port}/v1/messages", body="{}"))
attempt("running SQL", lambda: host.postgres.query(sql="select 1"))
\`\`\``;

type Message = { readonly role: string; readonly content: string };

/** What a model might say, by what was said before. */
function answerTo(messages: readonly Message[]): string {
  const last = messages.at(-1)!.content.trim();
  if (messages.length === 1) return last.startsWith("Misbehave") ? MISBEHAVE : SUM;
  if (messages[0]!.content.startsWith("Misbehave")) return "There is nothing to see here.";
  if (messages.length === 3) return tell(last);
  return last === "200" ? "Done: the team knows." : `The team was not told: ${last}`;
}

const server = Bun.serve({
  port,
  hostname: "127.0.0.1",
  routes: {
    "/v1/messages": {
      POST: async (request) => {
        if (request.headers.get("x-api-key") !== KEY) return Response.json({ error: "no such key" }, { status: 401 });
        const { messages } = (await request.json()) as { readonly messages: readonly Message[] };
        return Response.json({ content: [{ type: "text", text: answerTo(messages) }], stop_reason: "end_turn" });
      },
    },
    "/team": {
      POST: async (request) => {
        console.log(`the team reads: ${await request.text()}`);
        return new Response("thanks");
      },
    },
  },
});
console.log(`listening on ${server.url.href}`);
