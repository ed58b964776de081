/**
 * Written by scripts/generate.ts. Compiled parts of another edition are refused: an installation may have been replaced
 * only in part.
 */
export const EDITION = "0.1.0+02e1d4df";
