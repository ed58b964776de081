/** How a worker with tools asks the host. */
export const TRANSPORTS = ["shm", "stdio", "http"] as const;
export type Transport = (typeof TRANSPORTS)[number];

/** The variable that tells the worker, and that it may ask at all. Only ipcctl sets it. */
export const TRANSPORT_VARIABLE = "IPCCTL_TRANSPORT";
