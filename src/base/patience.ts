/** Waiting that ends: unlike a race with `Bun.sleep`, whose timer keeps a command alive that has nothing left to do. */

/** What the promise gives, or `undefined` when it has taken too long. */
export async function atMost<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
