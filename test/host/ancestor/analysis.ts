/**
 * The same as analysis.py, as such scripts are written in TypeScript: several questions at once, and whatever stdin
 * gives at a time is taken for one answer.
 */
type Answer = { id: string; result?: unknown; error?: string };

const waiting = new Map<string, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
let asked = 0;

process.stdin.on("data", (chunk: Buffer) => {
  const response = JSON.parse(chunk.toString()) as Answer;
  const request = waiting.get(response.id);
  if (request === undefined) return;
  waiting.delete(response.id);
  if (response.error === undefined) request.resolve(response.result);
  else request.reject(new Error(response.error));
});

function call(method: string, params: object = {}): Promise<unknown> {
  const id = `request-${++asked}`;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    console.log(JSON.stringify({ id, method, params }));
  });
}
const attempt = (method: string, params: object = {}): Promise<unknown> =>
  call(method, params).catch((error: unknown) => (error as Error).message);

console.log("Analysis begins");
const echoed = await attempt("echo.echo", {
  value: [1, null, { text: 'ä\n\u2028"\\', deep: { keptAsItIs: true } }],
});
const written = await attempt("files.write", {
  name: "sales.csv",
  content: "month,total\n1,2\n",
  conversationId: "c1",
});
console.log(JSON.stringify({ progress: 0.5 }));
const { id } = (written as { file: { id: string } }).file;
const others = await Promise.all([
  attempt("files.list", { conversationId: "c1" }),
  attempt("files.list", { conversationId: "c2" }),
  attempt("files.read", { id }),
  attempt("files.read", { id: "none" }),
  attempt("files.list", { conversationId: "c1", conversation_id: "c2" }),
  attempt("echo.echo"),
  attempt("none.such"),
  attempt("memory.list"),
  attempt("echo.echo", { value: "x".repeat(150_000) }),
]);
console.log(JSON.stringify({ outcomes: [echoed, written, ...others] }));
process.exit(0);
export {}; // for the compiler: a module
