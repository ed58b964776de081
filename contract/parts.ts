/** Where the compiled parts of an installation lie, seen from its folder; the first place that has the part. */
export const PARTS_FOLDERS = ["native/build", "node_modules/@ipcctl/linux-{}", "../@ipcctl/linux-{}"] as const;

/** What stands for `{}`: an architecture as packages name it, by its name in the kernel. */
export const ARCHITECTURES = { x86_64: "x64", aarch64: "arm64" } as const;
