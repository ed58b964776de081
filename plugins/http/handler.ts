/** Requests to sites that the host's user has listed, with credentials that no worker gets to see. */
import type { Plugin } from "../../src/host/plugin.ts";
import { webTools, type SiteConfig } from "../../src/web/fetcher.ts";
import { SYSTEM } from "../../src/web/reach.ts";

type Config = { readonly sites?: readonly SiteConfig[] };

const http: Plugin<Config | undefined> = ({ config, credentials, isGuarded = false }) =>
  webTools(config?.sites ?? [], credentials, { ...SYSTEM, isGuarded });

export default http;
