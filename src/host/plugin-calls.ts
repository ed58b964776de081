/** What crosses between the router or the daemon and the process of a plugin. */
import type { Sealed } from "../plane/sealed.ts";
import type { GroupFile } from "./plugin.ts";

/** Of the daemon, once. */
export type PluginSetup = {
  readonly config: unknown;
  /** By the names that the manifest declares. */
  readonly credentials: Readonly<Record<string, string>>;
  /** Those values, and earlier ones that a service may still repeat: taken out of all that the plugin says. */
  readonly secrets: readonly string[];
  /** A folder of its own that it may write. */
  readonly data: string;
  /** The contents of the files of its group. */
  readonly contents?: string;
  /** It reaches hosts by the connect helper only. */
  readonly isGuarded: boolean;
};

/** Who asks, as the host knows it. */
export type PluginRequest = {
  readonly worker: string;
  readonly session: string;
  readonly group: string;
  readonly correlation: string;
  /** Of a plugin that reads the files of the group: those that the arguments name. */
  readonly files?: readonly GroupFile[];
};

/** A result as JSON; what the handler refused deliberately; or what it failed with, which no worker is told. */
export type PluginAnswer =
  | { readonly json: string; readonly table?: Sealed }
  | {
      readonly refusal: {
        readonly code: string;
        readonly message: string;
        readonly retriable: boolean;
        readonly field: string | null;
      };
    }
  | { readonly crash: string };
