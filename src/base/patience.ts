/** Waits that end. A race with a bare timer would keep a finished command alive until its timer fires. */

/** Resolves after `ms` milliseconds, on Bun and on Node; 0 lets what has arrived be served first. */
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
