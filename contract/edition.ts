/** Written by scripts/generate.ts. Compiled parts of another one are not used: an installation may have been replaced by halves. */
export const EDITION = "0.1.0+901b759e";
