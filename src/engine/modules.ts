/**
 * Modules: what a specifier means, how the source of one is found, and `import()` wherever it stands. Nothing is read
 * from a disk or a network here: sources are those that Python has defined, or gives when it is asked.
 */
import { isUint8Array } from "node:util/types";
import { TO_ENGINE as FROM } from "../../contract/engine.ts";
import { ModuleRecord } from "./module-record.ts";
import type { Realm } from "./realm.ts";
import { LATER, type Session } from "./guest-session.ts";
import { languageOf, nameOf, toJavaScript } from "./language.ts";
import { isEnding, isOwn } from "./own-errors.ts";
import { dataProperty } from "./guest-values.ts";

const STATIC = "jsrun://static/";
const STATIC_SHORT = "static:";
const ABSOLUTE = /^[a-z][a-z0-9+.-]*:/i;
const RELATIVE = /^(?:\.{0,2}\/)/;
const SHOWN_CHARS = 200;
const TYPES = new Set(["", "json", "bytes", "text"]);

/** For whom something is loaded: Python asks its loader in the thread that waits for this request. */
class Client {
  readonly request: number;
  readonly isSync: boolean;
  /** Fails once nobody waits for its request any more. */
  readonly over = Promise.withResolvers<never>();
  isOver = false;

  constructor(request: number, isSync: boolean) {
    this.request = request;
    this.isSync = isSync;
    this.over.promise.catch(() => undefined);
  }

  end(): void {
    this.isOver = true;
    this.over.reject(new Error("nobody waits any more"));
  }
}

type Module = {
  readonly url: string;
  readonly key: string;
  readonly client: Client;
  /** Those that wait for it to be loaded. */
  readonly users: Set<Client>;
  /** Its source is here, and what it imports has been found, though that may not be loaded yet. */
  readonly ready: Promise<void>;
  readonly giveUp: (error: Failure) => void;
  record?: ModuleRecord;
  imports: readonly Module[];
  state: "loading" | "loaded" | "linked" | "failed" | "run";
};

/** What goes wrong on behalf of the guest: `thrown` is a value of its realm. It has no stack, which would cost time. */
class Failure {
  readonly thrown: unknown;
  constructor(thrown: unknown) {
    this.thrown = thrown;
  }
}

/** Operations of Python: in the thread that waits, and in an event loop. */
type Operations = readonly [sync: number, async: number] | undefined;

export class Modules {
  readonly #session: Session;
  readonly #realm: Realm;
  readonly #parse: (text: string) => unknown;
  readonly #sources = new Map<string, unknown>();
  readonly #modules = new Map<string, Module>();
  readonly #places = new WeakMap<object, string>();
  /** Requests for modules, and whether a thread waits for each. */
  readonly #requests = new Map<number, Client>();
  /** Modules whose URL does not name their language are TypeScript. */
  #isTypeScript = false;
  #resolver: Operations;
  #loader: Operations;

  constructor(session: Session) {
    this.#session = session;
    this.#realm = session.realm;
    const { make } = this.#realm;
    this.#parse = make.evaluate("JSON.parse") as never;
    this.#realm.importer = make.fn((args) => [false, this.#onImport(args[0], args[1], args[2])], "import");
    session.add({ take: (kind, number, fields) => this.#take(kind, number, fields) });
  }

  #take(kind: number, number: number, fields: readonly unknown[]): boolean {
    if (kind === FROM.module)
      this.#onModule(number, fields[2] as string, fields[3] as number | null, fields[4] === true);
    else if (kind === FROM.define) this.#define(fields[2] as string, fields[3]);
    else return false;
    return true;
  }

  #define(name: string, told: unknown): void {
    if (name !== "") {
      const url = STATIC + name;
      this.#sources.set(url, told);
      for (const type of TYPES) this.#modules.delete(keyOf(type, url));
      return;
    }
    const [resolver, loader] = ["resolver", "loader"].map((key) => {
      const pair = dataProperty(told as object, key);
      return Array.isArray(pair) ? ([pair[0], pair[1]] as [number, number]) : undefined;
    });
    this.#isTypeScript = dataProperty(told as object, "typescript") === true;
    this.#resolver = resolver;
    this.#loader = loader;
  }

  // ---- requests ----

  #onModule(number: number, specifier: string, timeoutMs: number | null, isAwaited: boolean): void {
    this.#session.request(number, timeoutMs, true, () => {
      const client = new Client(number, !isAwaited);
      this.#requests.set(number, client);
      const later = this.#session.later(number, () => this.#onEnd(client));
      this.#bring(specifier, "", "", client).then(
        (module) => this.#evaluate(module, () => later.ok(module.record!.namespace), later.bad),
        (error: unknown) => later.bad(this.#thrownBy(error)),
      );
      return LATER;
    });
  }

  /** It is answered, or nobody waits for it any more: what was loaded for it alone is given up. */
  #onEnd(client: Client): void {
    this.#requests.delete(client.request);
    client.end();
    for (const module of this.#modules.values()) {
      if (!module.users.delete(client)) continue;
      if (module.state === "linked") this.#modules.delete(module.key); // its code was ended in the middle
      if (module.state !== "loading" || module.users.size > 0) continue;
      this.#modules.delete(module.key);
      module.giveUp(new Failure(this.#error("Error", `Loading ${shown(module.url)} was given up`)));
    }
  }

  /** `import()` of a script, a module, or code that was made from text. @returns a promise of the guest's realm */
  #onImport(specifier: unknown, owner: unknown, attributes: unknown): unknown {
    const { promise, resolve, reject } = this.#realm.make.promise();
    const request = this.#session.current;
    const client = this.#requests.get(request) ?? new Client(request, false);
    const place = typeof owner === "object" && owner !== null ? this.#places.get(owner) : undefined;
    this.#bring(String(specifier), place ?? "<eval>", typeOf(attributes), client).then(
      (module) => this.#evaluate(module, () => resolve(module.record!.namespace), reject),
      (error: unknown) => reject(this.#thrownBy(error)),
    );
    return promise;
  }

  // ---- finding ----

  /** A module with all that it imports, linked. @throws Failure */
  async #bring(specifier: string, referrer: string, type: string, client: Client): Promise<Module> {
    const root = await this.#find(specifier, referrer, type, client);
    const graph = new Set([root]);
    for (const module of graph) {
      // A set may grow while it is walked.
      module.users.add(client);
      if (module.state === "loading") await module.ready;
      if (module.state === "loading" || module.state === "loaded") for (const one of module.imports) graph.add(one);
    }
    if (root.state === "loaded") this.#link(root, graph);
    return root;
  }

  /** What a specifier means; its source may still be on its way. */
  async #find(
    specifier: string,
    referrer: string,
    type: string,
    client: Client,
    users?: ReadonlySet<Client>,
  ): Promise<Module> {
    if (!TYPES.has(type))
      throw new Failure(
        this.#error(
          "TypeError",
          `Import of ${shown(specifier)} as ${shown(type)}: there are "json", "bytes" and "text"`,
        ),
      );
    const url = await this.#resolve(specifier, referrer, client, users);
    const key = keyOf(type, url);
    const known = this.#modules.get(key);
    if (known) return known;
    const given = Promise.withResolvers<never>();
    const made: Module = {
      url,
      key,
      client,
      users: new Set([client]),
      ready: Promise.race([given.promise, Promise.resolve().then(() => this.#load(made, type))]),
      giveUp: given.reject,
      imports: [],
      state: "loading",
    };
    this.#modules.set(key, made);
    made.ready.catch(() => {
      if (this.#modules.get(key) === made) this.#modules.delete(key);
    });
    return made;
  }

  async #resolve(specifier: string, referrer: string, client: Client, users?: ReadonlySet<Client>): Promise<string> {
    const found = this.#staticUrl(specifier, referrer);
    if (this.#resolver) {
      const answer = await this.#ask(this.#resolver, [specifier, referrer, found !== undefined], client, users);
      if (typeof answer.value === "string" && answer.value !== "") {
        if (ABSOLUTE.test(answer.value)) return canonical(answer.value);
        throw new Failure(
          this.#error(
            "TypeError",
            `Module resolver: ${shown(answer.value)} is not an absolute URL, such as "app:/name.js"`,
          ),
        );
      }
    }
    if (found !== undefined) return found;
    if (RELATIVE.test(specifier) && URL.canParse(specifier, referrer)) return new URL(specifier, referrer).href;
    if (ABSOLUTE.test(specifier)) return specifier;
    throw new Failure(
      this.#error(
        "TypeError",
        `Import of ${shown(specifier)} from ${shown(referrer || "Python")} was denied: no module has this name; ` +
          "in Python, add_static_module() defines one, and the setting modules=FOLDER has those of npm",
      ),
    );
  }

  #staticUrl(specifier: string, referrer: string): string | undefined {
    const url = RELATIVE.test(specifier)
      ? referrer.startsWith(STATIC) && URL.canParse(specifier, referrer)
        ? new URL(specifier, referrer).href
        : ""
      : canonical(ABSOLUTE.test(specifier) && !this.#sources.has(STATIC + specifier) ? specifier : STATIC + specifier);
    return this.#sources.has(url) ? url : undefined;
  }

  // ---- loading ----

  async #load(module: Module, type: string): Promise<void> {
    const source = await this.#source(module, type);
    const { url, client } = module;
    if (type !== "" || typeof source !== "string")
      module.record = ModuleRecord.ofValue(this.#realm, url, this.#valueOf(url, source, type));
    else {
      const owner = {};
      this.#places.set(owner, url);
      module.record = this.#compile(url, source, owner);
      module.imports = await Promise.all(
        module.record.requests.map(({ specifier, attributes }) =>
          this.#find(specifier, url, attributes.type ?? "", client, module.users),
        ),
      );
    }
    module.state = "loaded";
  }

  async #source(module: Module, type: string): Promise<unknown> {
    const { url, client } = module;
    if (this.#sources.has(url)) return this.#sources.get(url);
    if (!this.#loader) {
      const why = url.startsWith(STATIC) ? "no module has this name" : "Python has set no module loader";
      throw new Failure(this.#error("TypeError", `Import of ${shown(url)} was denied: ${why}`));
    }
    const { value } = await this.#ask(this.#loader, [url, type], client, module.users);
    return value;
  }

  #compile(url: string, source: string, owner: object): ModuleRecord {
    try {
      const language = languageOf(url);
      const code = toJavaScript(source, language === "js" && this.#isTypeScript ? "ts" : language, nameOf(url));
      return ModuleRecord.ofSource(this.#realm, url, code, owner);
    } catch (error) {
      throw new Failure(this.#syntaxError(error, url));
    }
  }

  #valueOf(url: string, source: unknown, type: string): unknown {
    const text = isUint8Array(source) && type !== "bytes" ? new TextDecoder().decode(bytesOf(source)) : source;
    if (type === "json" && typeof text === "string") {
      try {
        return this.#parse(text);
      } catch (error) {
        throw new Failure(this.#error("SyntaxError", `${shown(url)} is not JSON: ${(error as Error).message}`));
      }
    }
    if (type === "bytes" && typeof source === "string") {
      const bytes = new TextEncoder().encode(source);
      const made = this.#realm.make.array("Uint8Array", bytes.length);
      new Uint8Array(made.buffer).set(bytes);
      return made;
    }
    return type === "text" ? text : source;
  }

  // ---- linking and evaluating ----

  #link(root: Module, graph: ReadonlySet<Module>): void {
    const fresh = [...graph].filter(({ state }) => state === "loaded");
    try {
      for (const { record, imports } of fresh) record!.link(imports.map((one) => one.record!));
      root.record!.seal();
    } catch (error) {
      for (const module of fresh) if (this.#modules.get(module.key) === module) this.#modules.delete(module.key);
      throw new Failure(this.#clean(error));
    }
    for (const module of fresh) {
      module.record!.finish();
      module.state = "linked";
    }
  }

  #evaluate(module: Module, ok: () => void, bad: (error: unknown) => void): void {
    if (module.state === "run") return ok();
    const fail = (error: unknown): void => {
      settle(module, "failed");
      bad(error);
    };
    try {
      this.#realm.make.settle(
        module.record!.evaluate(),
        () => {
          settle(module, "run");
          ok();
        },
        fail,
      );
    } catch (error) {
      if (isEnding(error)) throw error;
      fail(this.#clean(error));
    }
  }

  // ---- Python ----

  /** Asks on behalf of a client; if that does not wait any more, on behalf of the next one that does. */
  async #ask(
    operations: readonly [number, number],
    args: readonly (string | boolean)[],
    client: Client,
    users?: ReadonlySet<Client>,
  ): Promise<{ value: unknown }> {
    for (let by = client; ;) {
      try {
        const answer = this.#askFor(by, operations, args);
        return await (by.request === 0 ? answer : Promise.race([answer, by.over.promise]));
      } catch (error) {
        const next = by.isOver ? users?.values().next().value : undefined;
        if (next === undefined) throw error;
        by = next;
      }
    }
  }

  /** In an object, since what the guest could call `then` would be called by a promise of ours. */
  #askFor(
    { request, isSync }: Client,
    operations: readonly [number, number],
    args: readonly (string | boolean)[],
  ): Promise<{ value: unknown }> {
    return new Promise((resolve, reject) => {
      this.#session.ask(operations[isSync ? 0 : 1], args, request, {
        ok: (value) => resolve({ value }),
        bad: (error) => reject(new Failure(error)),
      });
    });
  }

  // ---- errors ----

  #error(name: string, message: string): Error {
    return this.#realm.make.error(name, message);
  }

  #thrownBy(error: unknown): unknown {
    return isOwn(error, Failure) ? error.thrown : this.#clean(error);
  }

  /** An error of our realm as one of the guest's; everything else is the guest's already. */
  #clean(error: unknown): unknown {
    if (!isOwn(error, Error)) return error;
    return this.#error(error.name, error.message);
  }

  #syntaxError(error: unknown, url: string): unknown {
    if (!isOwn(error, SyntaxError)) return this.#clean(error);
    const made = this.#error("SyntaxError", error.message);
    const line = /<parse> \(.*?:(\d+)/.exec(error.stack ?? "")?.[1];
    const stack = line === undefined ? error.stack : `SyntaxError: ${error.message}\n    at ${nameOf(url)}:${line}:1`;
    Reflect.defineProperty(made, "stack", { value: stack, writable: true, configurable: true });
    return made;
  }
}

/**
 * It has come to its end, and all that it imports with it: nothing was ended in the middle. What a module imports that
 * failed may have run, or not have begun.
 */
function settle(root: Module, state: "failed" | "run"): void {
  const graph = new Set([root]);
  for (const module of graph) {
    if (module.state !== "linked" && module.state !== "failed") continue;
    module.state = state;
    for (const one of module.imports) graph.add(one);
  }
}

/** Read by functions of ours, whatever its class has become. */
function bytesOf(array: Uint8Array): Uint8Array {
  return new Uint8Array(array);
}

function keyOf(type: string, url: string): string {
  return `${type} ${url}`;
}

function canonical(url: string): string {
  return url.startsWith(STATIC_SHORT) ? STATIC + url.slice(STATIC_SHORT.length) : url;
}

function typeOf(attributes: unknown): string {
  if (typeof attributes !== "object" || attributes === null) return "";
  const type = dataProperty(attributes, "type");
  return typeof type === "string" ? type : "";
}

function shown(text: string): string {
  const whole = text.toWellFormed();
  return JSON.stringify(whole.length > SHOWN_CHARS ? `${whole.slice(0, SHOWN_CHARS)}…` : whole);
}

export function addModules(session: Session): Modules {
  return new Modules(session);
}
