/** The apps of the daemon's configuration: unknown ones are started, at the daemon's start and at each SIGHUP. */
import { existsSync } from "node:fs";
import type { Logger } from "pino";
import type { Paths } from "../base/paths.ts";
import type { Registry } from "../workers/registry.ts";
import type { DaemonOptions } from "./options.ts";

export class Configured {
  readonly #options: DaemonOptions;
  readonly #path: string;
  readonly #logger: Logger;
  readonly #registry: Registry;
  readonly #startApp: (name: string, definition: string) => Promise<unknown>;

  constructor(
    options: DaemonOptions,
    { config }: Paths,
    logger: Logger,
    registry: Registry,
    startApp: (name: string, definition: string) => Promise<unknown>,
  ) {
    this.#options = options;
    this.#path = config;
    this.#logger = logger;
    this.#registry = registry;
    this.#startApp = startApp;
  }

  /** Known apps keep the state that was last requested; a restart of the daemon starts nothing that was stopped. */
  async start(): Promise<void> {
    const config = this.#path;
    if (this.#options.config === undefined && !existsSync(config)) return;
    const { readProjectApps } = await import("../protocol/project.ts");
    for (const app of readProjectApps(config)) {
      if (this.#registry.find(app.name) !== undefined || app.auto_start === false) continue;
      await this.#startApp(app.name, JSON.stringify(app)).catch((error: Error) =>
        this.#logger.error({ worker: app.name, reason: error.message, config }, "configured app cannot be started"),
      );
    }
  }

  /** Reports if the app that the daemon must end with does not exist. */
  requireExitWith(): void {
    const { exitWith } = this.#options;
    if (exitWith === undefined || ["all", "any"].includes(exitWith) || this.#registry.find(exitWith)) return;
    this.#logger.warn(
      { exitWith },
      "no worker has the name that --exit-with says; the daemon goes on until one of that name has ended",
    );
  }
}
