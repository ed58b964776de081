/** Modules of the guest's realm, as Node has them; see module-record.ts. */
import vm from "node:vm";
import { nameOf } from "./language.ts";
import type { Realm } from "./realm.ts";

export type Request = { readonly specifier: string; readonly attributes: Readonly<Record<string, string>> };

/** What @types/node does not know yet: Node 22.21 and 24.8 have it. */
type Linked = vm.Module & {
  readonly moduleRequests: readonly Request[];
  readonly linkRequests: (modules: readonly vm.Module[]) => void;
  readonly instantiate: () => void;
};

export class ModuleRecord {
  readonly #module: Linked;
  readonly requests: readonly Request[];
  readonly #isSource: boolean;

  private constructor(module: vm.Module, isSource: boolean) {
    this.#module = module as Linked;
    this.#isSource = isSource;
    this.requests = isSource ? this.#module.moduleRequests : [];
  }

  /**
   * @param owner what `import()` in it is told as the place where it stands
   * @throws SyntaxError of our realm
   */
  static ofSource(realm: Realm, url: string, source: string, owner: object): ModuleRecord {
    const { context } = realm;
    const module = new vm.SourceTextModule(source, {
      context,
      identifier: nameOf(url),
      initializeImportMeta: (meta) => {
        meta.url = url;
      },
      importModuleDynamically: ((specifier: string, _: unknown, attributes: unknown) =>
        (realm.importing as Function)(specifier, owner, attributes) as unknown) as never,
    });
    return new ModuleRecord(module, true);
  }

  /** One that exports a value of the guest as `default`, and needs neither linking nor evaluating. */
  static ofValue(realm: Realm, url: string, value: unknown): ModuleRecord {
    const module = new vm.SyntheticModule(["default"], () => module.setExport("default", value), {
      context: realm.context,
      identifier: nameOf(url),
    });
    return new ModuleRecord(module, false);
  }

  link(found: readonly ModuleRecord[]): void {
    if (this.#isSource) this.#module.linkRequests(found.map((one) => one.#module));
  }

  /** Once it and all that it leads to are linked. @throws SyntaxError: something is imported that is not exported */
  seal(): void {
    if (this.#isSource) this.#module.instantiate();
  }

  finish(): void {
    // Nothing but `evaluate` makes it run.
  }

  /** @returns a promise; what fails at once may also be thrown */
  evaluate(): unknown {
    return this.#module.evaluate();
  }

  get namespace(): object {
    return this.#module.namespace;
  }
}
