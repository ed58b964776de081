/**
 * The thread of an engine that debuggers speak to. They come over one socket from Python: this process has no network.
 * Each is a session of V8's inspector on the thread in which the guest's code runs, and sees of it the guest's realm
 * alone: contexts, scripts and frames of the engine itself are left out, and nothing stops in them.
 *
 * Frames on the socket: bytes of text, number of the debugger, text; an empty one is its end. Number 0 is Python:
 * `{title, isStopping}` first, then `{resume: true}`; it is told `{released: true}`.
 */
import inspector from "node:inspector";
import { Socket } from "node:net";
import { workerData } from "node:worker_threads";

type Message = { readonly id?: number; readonly method?: string; readonly params?: Record<string, unknown> };
type Context = { id: number; name: string; uniqueId: string; auxData: { isDefault: boolean } };
type Frame = { readonly location: { readonly scriptId: string } };

const HEAD_BYTES = 8;
const OURS = /^ipcctl:/;
/** Where stepping does not stop: Node, and the engine. */
const OTHERS = ["^node:", "engine\\.node\\.js$", "^ipcctl:"];
/** Steps to the next statement of the guest; more are taken for none. */
const STEPS_MAX = 1000;
/** Those that mean the realm of the engine if they name none. */
const OF_A_CONTEXT = new Set(["Runtime.evaluate", "Runtime.compileScript", "Runtime.globalLexicalScopeNames"]);

const socket = new Socket({ fd: workerData as number, readable: true, writable: true });
const sessions = new Map<number, Attached>();
let title = "";
let isStopping = false;
/** The guest's realm. */
let guest = 0;

function send(number: number, text: string): void {
  const bytes = Buffer.from(text);
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(bytes.length, 0);
  head.writeUInt32LE(number, 4);
  socket.write(Buffer.concat([head, bytes]));
}

class Attached {
  readonly #number: number;
  readonly #session = new inspector.Session();
  readonly #scripts = new Set<string>();
  /** Steps that are left to the next statement of the guest, where it is to stop. */
  #steps = 0;
  isPaused = false;

  constructor(number: number) {
    this.#number = number;
    this.#session.connectToMainThread();
    this.#session.on("inspectorNotification", (message) => this.#onNotification(message as Message));
  }

  close(): void {
    this.#session.disconnect();
  }

  /** A message of the debugger. */
  take(text: string): void {
    const { id, method, params = {} } = JSON.parse(text) as Message;
    if (typeof method !== "string") throw new TypeError("a message without a method");
    if (OF_A_CONTEXT.has(method) && params.contextId === undefined && params.uniqueContextId === undefined) {
      const key = method === "Runtime.evaluate" ? "contextId" : "executionContextId";
      params[key] ??= guest;
    }
    // Code of the guest that is run by it, such as a getter, could take its `require`, which is the engine's.
    if ("includeCommandLineAPI" in params) params.includeCommandLineAPI = false;
    if (method === "Runtime.runIfWaitingForDebugger") {
      if (isStopping) {
        this.#post("Debugger.enable");
        this.#post("Debugger.setBlackboxPatterns", { patterns: OTHERS });
        this.#steps = STEPS_MAX;
        this.#post("Debugger.pause");
      }
      this.#post("Runtime.getIsolateId", {}, () => send(0, '{"released":true}')); // after all of that
      isStopping = false;
    }
    if (method === "Debugger.pause") this.#steps = STEPS_MAX;
    if (method === "Debugger.enable") this.#post("Debugger.setBlackboxPatterns", { patterns: OTHERS });
    if (method === "Debugger.setBlackboxPatterns" && Array.isArray(params.patterns)) params.patterns.push(...OTHERS);
    this.#post(method, params, (error, result) => {
      if (id === undefined) return;
      const code = /^Inspector error (-?\d+): /.exec(error?.message ?? "");
      const failure = error && {
        code: Number(code?.[1] ?? -32000),
        message: error.message.slice(code?.[0].length ?? 0),
      };
      this.#tell(failure ? { id, error: failure } : { id, result: result ?? {} });
    });
  }

  resume(): void {
    if (this.isPaused) this.#post("Debugger.resume");
  }

  #post(method: string, params?: object, then?: (error: Error | null, result?: object) => void): void {
    this.#session.post(method, params, then);
  }

  #tell(message: object): void {
    send(this.#number, JSON.stringify(message));
  }

  #onNotification({ method, params = {} }: Message): void {
    switch (String(method)) {
      case "Runtime.executionContextCreated": {
        const context = params.context as Context;
        if (context.auxData.isDefault) return;
        context.name = title;
        context.auxData.isDefault = true;
        break;
      }
      case "Debugger.scriptParsed":
      case "Debugger.scriptFailedToParse":
        if (params.executionContextId !== guest || OURS.test(String(params.url))) return;
        this.#scripts.add(String(params.scriptId));
        break;
      case "Debugger.paused":
        if (!this.#onPaused(params)) return;
        break;
      case "Debugger.resumed":
        if (!this.isPaused) return;
        this.isPaused = false;
        break;
      default:
    }
    this.#tell({ method, params });
  }

  /** Whether the debugger is told of it; what is none of its business goes on. */
  #onPaused(params: Record<string, unknown>): boolean {
    const frames = params.callFrames as Frame[];
    const isGuests = this.#scripts.has(frames[0]?.location.scriptId ?? "");
    if (isGuests) {
      this.#steps = 0;
      this.isPaused = true;
      params.callFrames = frames.filter(({ location }) => this.#scripts.has(location.scriptId));
      return true;
    }
    this.#post(this.#steps-- > 0 ? "Debugger.stepInto" : "Debugger.resume");
    return false;
  }
}

function onFrame(number: number, text: string): void {
  if (number === 0) {
    const told = JSON.parse(text) as {
      readonly title?: string;
      readonly isStopping?: boolean;
      readonly resume?: boolean;
    };
    if (told.resume === true) for (const one of sessions.values()) one.resume();
    title = told.title ?? title;
    isStopping = told.isStopping ?? isStopping;
    return;
  }
  let attached = sessions.get(number);
  try {
    if (text === "") {
      sessions.delete(number);
      attached?.close();
      return;
    }
    if (!attached) sessions.set(number, (attached = new Attached(number)));
    attached.take(text);
  } catch {
    sessions.delete(number);
    attached?.close();
    send(number, ""); // it does not speak the protocol
  }
}

let waiting = Buffer.alloc(0);

function onData(bytes: Buffer): void {
  waiting = Buffer.concat([waiting, bytes]);
  while (waiting.length >= HEAD_BYTES) {
    const end = HEAD_BYTES + waiting.readUInt32LE(0);
    if (waiting.length < end) return;
    const text = waiting.toString("utf8", HEAD_BYTES, end);
    const number = waiting.readUInt32LE(4);
    waiting = waiting.subarray(end);
    onFrame(number, text);
  }
}

function begin(): void {
  const watch = new inspector.Session();
  watch.connectToMainThread();
  watch.on("Runtime.executionContextCreated", ({ params }) => {
    const { id, auxData } = params.context as unknown as Context;
    if (!auxData.isDefault) guest = id;
  });
  watch.post("Runtime.enable", () => {
    watch.disconnect();
    socket.on("data", onData);
    socket.on("close", () => {
      for (const one of sessions.values()) one.close();
    });
  });
}

begin();
