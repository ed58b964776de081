/** Names of the restart policies; apart from the schema, so that the command line need not load it. */
export const RESTART_POLICIES = ["no", "always", "on-failure", "unless-stopped"] as const;
export type RestartPolicy = (typeof RESTART_POLICIES)[number];
