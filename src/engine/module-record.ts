/**
 * Modules of the guest's realm, as JavaScriptCore has them.
 *
 * `node:vm` of Bun cannot be used as it is. It evaluates the modules of a cycle in the wrong order, and resolves
 * promises of our own realm with what a module exports: a module that exports `then`, or a guest that patches
 * `Promise`, gets our functions by that. So its native class is used directly, and in such a way that it leaves the
 * order to the engine: each module first imports one that fails, is evaluated once by that class alone, and counts as
 * failed there. What the engine evaluates afterwards, as a dependency of a module of ours, is unaffected.
 */
import vm from "node:vm";
import { nameOf } from "./language.ts";
import type { Realm } from "./realm.ts";

export type Request = { readonly specifier: string; readonly attributes: Readonly<Record<string, string>> };

type Native = {
  readonly createModuleRecord: () => Request[];
  readonly link: (specifiers: string[], found: Native[], fetcher: number) => void;
  readonly instantiate: () => void;
  readonly evaluate: (timeout: number, breakOnSigint: boolean) => unknown;
  readonly getNamespace: () => object;
  readonly setExport: (name: string, value: unknown) => void;
};

type Construct = {
  new (
    ...of: [
      identifier: string,
      context: vm.Context,
      source: string,
      lineOffset: number,
      columnOffset: number,
      cachedData: undefined,
      initializeImportMeta: undefined,
      owner: object,
      importModuleDynamically: Function | undefined,
    ]
  ): Native;
  new (identifier: string, context: vm.Context, names: string[], evaluate: () => void, owner: object): Native;
};

let known: Construct | undefined;
const FAILING = "ipcctl:failing";
const PROLOGUE = `import"${FAILING}";`;

/** Looked for by the first module, since that takes long and most engines have none. */
function nativeClass(): Construct {
  if (known) return known;
  const made = new vm.SourceTextModule("") as unknown as Record<symbol, object>;
  const key = Object.getOwnPropertySymbols(made).find(({ description }) => description === "kNative");
  return (known = (made[key!] as { constructor: unknown }).constructor as Construct);
}

/** One module. It is linked once with all that it imports, and evaluated as often as asked; its code runs once. */
export class ModuleRecord {
  readonly #native: Native;
  readonly #realm: Realm;
  readonly requests: readonly Request[];
  /** It has code that must be linked. */
  readonly #isSource: boolean;

  private constructor(realm: Realm, native: Native, requests?: readonly Request[]) {
    this.#realm = realm;
    this.#native = native;
    this.requests = requests ?? [];
    this.#isSource = requests !== undefined;
  }

  /**
   * @param owner what `import()` in it is told as the place where it stands
   * @throws SyntaxError of our realm
   */
  static ofSource(realm: Realm, url: string, source: string, owner: object): ModuleRecord {
    const head = `${PROLOGUE}${source.includes("meta") ? `import.meta.url=${JSON.stringify(url)};` : ""}`;
    const text = `${head}${withoutHashbang(source)}\n//# sourceURL=${nameOf(url)}`;
    realm.firstColumns.set(nameOf(url), head.length);
    const Native = nativeClass();
    const native = new Native(url, realm.context, text, 0, 0, undefined, undefined, owner, realm.importer);
    const requests = native.createModuleRecord().filter(({ specifier }) => specifier !== FAILING);
    return new ModuleRecord(realm, native, requests);
  }

  /** One that exports a value of the guest as `default`, and needs neither linking nor evaluating. */
  static ofValue(realm: Realm, url: string, value: unknown): ModuleRecord {
    const Native = nativeClass();
    const native = new Native(url, realm.context, ["default"], () => native.setExport("default", value), {});
    native.instantiate();
    native.evaluate(-1, false);
    return new ModuleRecord(realm, native);
  }

  /** @param found for each of `requests` the module that it means */
  link(found: readonly ModuleRecord[]): void {
    if (!this.#isSource) return;
    const Native = nativeClass();
    const failing = new Native(FAILING, this.#realm.context, [], fail, {});
    failing.instantiate();
    this.#native.link(
      [FAILING, ...this.requests.map(({ specifier }) => specifier)],
      [failing, ...found.map((one) => one.#native)],
      0,
    );
  }

  /** Once it and all that it leads to are linked. @throws SyntaxError: something is imported that is not exported */
  seal(): void {
    if (this.#isSource) this.#native.instantiate();
  }

  /** From here on only `evaluate` makes it run. */
  finish(): void {
    if (!this.#isSource) return;
    try {
      this.#native.evaluate(-1, false);
    } catch (error) {
      if (error !== FAILURE) throw error;
    }
  }

  /**
   * Runs what has not run of it and of what it imports.
   * @returns a promise of the guest's realm; what fails at once may also be thrown
   */
  evaluate(): unknown {
    const Native = nativeClass();
    const root = new Native("ipcctl:root", this.#realm.context, 'import""', 0, 0, undefined, undefined, {}, undefined);
    root.createModuleRecord();
    root.link([""], [this.#native], 0);
    root.instantiate();
    return root.evaluate(-1, false);
  }

  get namespace(): object {
    return this.#native.getNamespace();
  }
}

const FAILURE = Symbol("failing");

function fail(): never {
  // eslint-disable-next-line @typescript-eslint/only-throw-error -- it is recognized by what it is
  throw FAILURE;
}

function withoutHashbang(source: string): string {
  return source.startsWith("#!") ? `//${source.slice(2)}` : source;
}
