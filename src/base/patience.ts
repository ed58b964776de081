/** Waits that end. A race with `Bun.sleep` would keep a finished command alive until its timer fires. */

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
