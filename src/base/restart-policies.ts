/** Names of the restart policies. In a file of their own, so that the command line need not load the schema. */
export const RESTART_POLICIES = ["no", "always", "on-failure", "unless-stopped"] as const;
export type RestartPolicy = (typeof RESTART_POLICIES)[number];
