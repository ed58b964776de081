/** The least that a plugin can be: what it is asked comes back. */
import type { Plugin } from "../../src/host/plugin.ts";

const echo: Plugin = () => ({ tools: { echo: ({ value }) => ({ value }), shout: ({ value }) => ({ value }) } });

export default echo;
