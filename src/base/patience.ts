/** Waits that end. A race with a bare timer would keep a finished command alive until its timer fires. */

/**
 * Resolves after `ms` milliseconds; 0 lets what has arrived be served first. `Bun.sleep` is not used anywhere: in Bun
 * 1.4.5 about one in some hundred of its promises never resolves while other processes are being started.
 */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    if (ms > 0) setTimeout(resolve, ms);
    else setImmediate(resolve);
  });
}

/** The promise's value, or `undefined` if it takes too long. */
export async function atMost<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
