<<<<<<< HEAD
/**
 * Written by scripts/generate.ts. Compiled parts of another edition are refused: an installation may have been replaced
 * only in part.
 */
export const EDITION = "0.1.0+901b759e";
=======
/** Written by scripts/generate.ts. Compiled parts of another one are not used: an installation may have been replaced by halves. */
export const EDITION = "0.1.0+cbe98cf1";
>>>>>>> cdc6c31 (Call from Python, and serve over streams of bytes in Python too)
