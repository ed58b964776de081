// Runs as guest code. Walks everything that a guest can reach, and reports what belongs to another realm or knows more
// than the language: a Function whose code sees `process`, or an object whose prototypes do not end in ours.
globalThis.crawl = (roots) => {
  const found = [],
    seen = new Set(),
    queue = [];
  const { getPrototypeOf, getOwnPropertyDescriptor, ownKeys, apply, construct } = Reflect;
  const { Object: Obj, Error: Err } = globalThis;
  const NAMES =
    "['process','Bun','require','module','fetch','Deno','global','ipcctlEntry','ShadowRealm','Worker']" +
    ".filter((name) => { try { return (0, eval)('typeof ' + name) !== 'undefined' } catch { return false } }).join()";
  const show = (value) => {
    try {
      return typeof value === "function" ? `function ${value.name}` : Obj.prototype.toString.call(value);
    } catch {
      return typeof value;
    }
  };
  const push = (value, path) => {
    if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value)) return;
    seen.add(value);
    queue.push([value, path]);
  };
  const quietly = (act) => {
    try {
      return act();
    } catch (error) {
      push(error, "thrown");
      return undefined;
    }
  };
  const judge = (value, path) => {
    let end = value,
      depth = 0;
    for (let one = value; one !== null && depth < 50; depth++) {
      end = one;
      one = getPrototypeOf(one);
    }
    if (end !== Obj.prototype && getPrototypeOf(value) !== null) found.push(`${path}: ${show(value)} of another realm`);
    if (typeof value !== "function") return;
    for (const constructor of [quietly(() => value.constructor), quietly(() => getPrototypeOf(value).constructor)]) {
      if (typeof constructor !== "function") continue;
      const seenThere = quietly(() => constructor(`return ${NAMES}`)());
      if (typeof seenThere === "string" && seenThere !== "") found.push(`${path}: its constructor sees ${seenThere}`);
    }
  };
  // Endless, or the end of everything.
  const LEFT = /^(?:wait|gc|Function|eval|crawl.*|quit|repeat|padStart|padEnd)$/;
  const hostile = [
    undefined,
    null,
    Symbol("s"),
    -1,
    1n,
    {},
    [],
    () => 1,
    "x",
    new Proxy({}, {}),
    {
      valueOf() {
        throw new Err("valueOf");
      },
      toString() {
        throw new Err("toString");
      },
    },
  ];
  const call = (fn, path) => {
    if (LEFT.test(path.split(".").pop())) return;
    for (const self of [undefined, {}, 1])
      for (const arg of hostile) {
        try {
          push(apply(fn, self, [arg]), `${path}()`);
        } catch (error) {
          push(error, `${path}() throws`);
        }
      }
    for (const arg of hostile) {
      try {
        push(construct(fn, [arg, arg]), `new ${path}()`);
      } catch (error) {
        push(error, `new ${path}() throws`);
      }
    }
  };
  for (const [name, root] of Obj.entries(roots)) push(root, name);
  push(globalThis, "globalThis");
  let steps = 0;
  while (queue.length > 0 && steps < 60000) {
    steps++;
    const [value, path] = queue.shift();
    judge(value, path);
    push(getPrototypeOf(value), `${path}.__proto__`);
    let keys = [];
    try {
      keys = ownKeys(value);
    } catch (error) {
      push(error, `${path} keys`);
    }
    if (typeof value !== "function" && path.includes("()") && getPrototypeOf(value) !== Err.prototype)
      keys = keys.slice(0, 5);
    for (const key of keys) {
      const at = `${path}.${String(key)}`;
      let of;
      try {
        of = getOwnPropertyDescriptor(value, key);
      } catch (error) {
        push(error, at);
        continue;
      }
      if (!of) continue;
      judge(of, `${at} descriptor`);
      if ("value" in of) {
        push(of.value, at);
        continue;
      }
      push(of.get, `${at} getter`);
      push(of.set, `${at} setter`);
      try {
        push(value[key], at);
      } catch (error) {
        push(error, `${at} throws`);
      }
    }
    if (typeof value === "function" && path.length < 120 && !path.includes("()")) call(value, path);
  }
  return { steps, seen: seen.size, left: queue.length, found: found.slice(0, 50) };
};
