/**
 * `fetch`, its headers and its responses, as code of the guest's realm. It is evaluated before any code of the guest,
 * whose arguments it reads, and reaches the network by what `guest-net.ts` gives it: functions of this realm, which
 * take and give texts, numbers and bytes.
 */

/** What of {@link FETCH} the rest of the program calls. */
export type FetchGlobals = { readonly fetch: Function; readonly Headers: Function };

/** Called with an object that has these functions as its own properties. */
export type FetchHost = {
  /** The name of a header in lower case, and a value without spaces around it. @throws a TypeError of the guest */
  readonly name: Function;
  readonly value: Function;
  /** Whether it can be sent as bytes. */
  readonly isBytes: Function;
  readonly isStream: Function;
  /** (url, method, headers, body, redirect, onHead, onFail): the number of an exchange. @throws a TypeError */
  readonly start: Function;
  /** (number, token): once nobody has the token any more, it is given up. */
  readonly keep: Function;
  /** (number, put, close, fail): one chunk of the body. */
  readonly pull: Function;
  /** (number, kind, ok, fail): all that is left of it, as "text" or "bytes". */
  readonly whole: Function;
  readonly end: Function;
  /** What web-streams.ts makes. */
  readonly streams: Function;
};

export const FETCH = `((host) => {
  "use strict";
  const { apply, defineProperty, getOwnPropertyDescriptor, ownKeys } = Reflect;
  const { TypeError, Promise, Symbol, Uint8Array } = globalThis;
  const { parse } = JSON;
  const { iterator, toStringTag } = Symbol;
  const buffer = getOwnPropertyDescriptor(Reflect.getPrototypeOf(Uint8Array.prototype), "buffer").get;
  const { name: nameOf, value: valueOf, isBytes, isStream, start, keep, pull, whole, end, streams } = host;
  const mine = {};

  // Setters of Array.prototype see nothing of this.
  const add = (list, item) => {
    defineProperty(list, list.length, { __proto__: null, value: item, writable: true, enumerable: true,
      configurable: true });
  };
  const isObject = (value) => (typeof value === "object" && value !== null) || typeof value === "function";

  // ---- headers ----

  let listOf, fixed;
  class Headers {
    #list = [];
    #isFixed = false;
    constructor(init) {
      if (init === undefined) return;
      if (!isObject(init)) throw new TypeError("Headers: an object, or pairs of names and values, is needed");
      if (#list in init) {
        for (let at = 0; at < init.#list.length; at++) add(this.#list, init.#list[at]);
        return;
      }
      if (typeof init[iterator] === "function") {
        for (const pair of init) {
          const items = isObject(pair) ? [...pair] : [];
          if (items.length !== 2) throw new TypeError("Headers: each item must be a pair of a name and a value");
          this.#append(items[0], items[1]);
        }
        return;
      }
      const keys = ownKeys(init);
      for (let at = 0; at < keys.length; at++) {
        const property = getOwnPropertyDescriptor(init, keys[at]);
        if (property !== undefined && property.enumerable) this.#append(keys[at], init[keys[at]]);
      }
    }
    #append(name, value) {
      add(this.#list, { __proto__: null, name: nameOf(\`\${name}\`), value: valueOf(\`\${value}\`) });
    }
    #without(name) {
      if (this.#isFixed) throw new TypeError("Headers: those of a response cannot be changed");
      const left = [];
      for (let at = 0; at < this.#list.length; at++)
        if (this.#list[at].name !== name) add(left, this.#list[at]);
      return left;
    }
    // Sorted; those of one name are one, but for cookies.
    #entries() {
      const entries = [];
      let seen = { __proto__: null };
      const names = [];
      for (let at = 0; at < this.#list.length; at++) {
        const { name } = this.#list[at];
        if (seen[name] === true) continue;
        seen[name] = true;
        let place = names.length;
        add(names, name);
        for (; place > 0 && names[place - 1] > name; place--) names[place] = names[place - 1];
        names[place] = name;
      }
      for (let at = 0; at < names.length; at++) {
        const name = names[at];
        if (name !== "set-cookie") { add(entries, [name, this.get(name)]); continue; }
        const cookies = this.getSetCookie();
        for (let one = 0; one < cookies.length; one++) add(entries, [name, cookies[one]]);
      }
      return entries;
    }
    append(name, value) {
      this.#without("");
      this.#append(name, value);
    }
    set(name, value) {
      const left = this.#without(nameOf(\`\${name}\`));
      this.#append(name, value);
      add(left, this.#list[this.#list.length - 1]);
      this.#list = left;
    }
    delete(name) { this.#list = this.#without(nameOf(\`\${name}\`)); }
    get(name) {
      const wanted = nameOf(\`\${name}\`);
      let found = null;
      for (let at = 0; at < this.#list.length; at++) {
        const { name, value } = this.#list[at];
        if (name === wanted) found = found === null ? value : \`\${found}, \${value}\`;
      }
      return found;
    }
    has(name) { return this.get(name) !== null; }
    getSetCookie() {
      const found = [];
      for (let at = 0; at < this.#list.length; at++)
        if (this.#list[at].name === "set-cookie") add(found, this.#list[at].value);
      return found;
    }
    forEach(act, self) {
      const entries = this.#entries();
      for (let at = 0; at < entries.length; at++) apply(act, self, [entries[at][1], entries[at][0], this]);
    }
    *entries() {
      const entries = this.#entries();
      for (let at = 0; at < entries.length; at++) yield entries[at];
    }
    *keys() {
      const entries = this.#entries();
      for (let at = 0; at < entries.length; at++) yield entries[at][0];
    }
    *values() {
      const entries = this.#entries();
      for (let at = 0; at < entries.length; at++) yield entries[at][1];
    }
    static {
      listOf = (headers) => {
        let text = "";
        for (let at = 0; at < headers.#list.length; at++)
          text += \`\${at === 0 ? "" : "\\n"}\${headers.#list[at].name}:\${headers.#list[at].value}\`;
        return text;
      };
      fixed = (parts) => {
        const headers = new Headers();
        for (let at = 0; at + 1 < parts.length; at += 2)
          add(headers.#list, { __proto__: null, name: parts[at], value: parts[at + 1] });
        headers.#isFixed = true;
        return headers;
      };
    }
  }
  const named = (of, name, value) => {
    defineProperty(of, name, { __proto__: null, value, writable: true, configurable: true, enumerable: false });
  };
  named(Headers.prototype, iterator, Headers.prototype.entries);
  defineProperty(Headers.prototype, toStringTag, { __proto__: null, value: "Headers", configurable: true });

  // ---- responses ----

  // What ends an exchange, and what it ended for, if the guest ended it.
  const failure = (token, message) => {
    token.leave();
    return token.isAborted ? token.reason : new TypeError(message);
  };

  let responseOf;
  class Response {
    #head;
    #token;
    #headers;
    #stream = null;
    #handle;
    #isUsed = false;
    constructor(from, head, token) {
      if (from !== mine) throw new TypeError("Response: only fetch makes one here");
      this.#head = head;
      this.#token = token;
      this.#headers = fixed(head.headers);
    }
    get ok() { return this.#head.status >= 200 && this.#head.status < 300; }
    get status() { return this.#head.status; }
    get statusText() { return this.#head.statusText; }
    get url() { return this.#head.url; }
    get redirected() { return this.#head.redirected; }
    get type() { return "basic"; }
    get headers() { return this.#headers; }
    get bodyUsed() { return this.#isUsed || (this.#stream !== null && this.#stream._disturbed === true); }
    get body() {
      if (this.#stream === null && this.#head.hasBody) {
        const token = this.#token;
        const source = (handle) => {
          if (token.isAborted) handle.fail(token.reason);
          else pull(token.number, handle.put, () => { token.leave(); handle.close(); },
            (message) => { handle.fail(failure(token, message)); });
        };
        const { stream, handle } = streams().source(source, () => { token.leave(); end(token.number); }, 0);
        token.fail = handle.fail;
        this.#stream = stream;
        this.#handle = handle;
        if (this.#isUsed) {
          streams().reader(stream);
          handle.close();
        }
      }
      return this.#stream;
    }
    #whole(kind) {
      return new Promise((resolve, reject) => {
        if (!this.#head.hasBody) return void resolve(kind === "text" ? "" : new Uint8Array(0));
        if (this.bodyUsed) throw new TypeError("Response: its body has been read, or is being read");
        if (this.#stream !== null) streams().reader(this.#stream);
        this.#isUsed = true;
        const token = this.#token;
        const handle = this.#handle;
        if (token.isAborted) throw token.reason;
        token.fail = (error) => {
          if (handle !== undefined) handle.fail(error);
          reject(error);
        };
        whole(token.number, kind, (value) => {
          token.leave();
          if (handle !== undefined) handle.close();
          resolve(value);
        }, (message) => { token.fail(failure(token, message)); });
      });
    }
    text() { return this.#whole("text"); }
    async json() { return parse(await this.#whole("text")); }
    bytes() { return this.#whole("bytes"); }
    async arrayBuffer() { return apply(buffer, await this.#whole("bytes"), []); }
    static { responseOf = (head, token) => new Response(mine, head, token); }
  }
  defineProperty(Response.prototype, toStringTag, { __proto__: null, value: "Response", configurable: true });

  // ---- requests ----

  const FIELDS = ["method", "headers", "body", "redirect", "signal"];
  const addOptions = (options, from) => {
    if (!isObject(from)) return;
    for (let at = 0; at < FIELDS.length; at++) {
      const value = from[FIELDS[at]];
      if (value !== undefined) options[FIELDS[at]] = value;
    }
  };
  const isRequest = (input) => isObject(input) && typeof input.url === "string";
  const { fetch } = { fetch(input, init = undefined) {
    return new Promise((resolve, reject) => {
      const url = isRequest(input) ? input.url : \`\${input}\`;
      const options = { __proto__: null };
      if (isRequest(input)) addOptions(options, input);
      addOptions(options, init);
      const method = options.method === undefined ? "GET" : \`\${options.method}\`;
      const headers = new Headers(options.headers === null ? undefined : options.headers);
      let { body, signal } = options;
      if (body === null) body = undefined;
      if (isObject(body) && isStream(body))
        throw new TypeError("fetch: a stream as a body is not sent: read it before, and send its bytes");
      if (body !== undefined && !isBytes(body)) {
        body = \`\${body}\`;
        if (!headers.has("content-type")) headers.set("content-type", "text/plain;charset=UTF-8");
      }
      if (signal === null) signal = undefined;
      if (signal !== undefined && !(isObject(signal) && typeof signal.addEventListener === "function"))
        throw new TypeError("fetch: signal is not an AbortSignal");
      if (signal !== undefined && signal.aborted) throw signal.reason;
      const token = { __proto__: null, number: 0, isAborted: false, reason: undefined, fail: undefined,
        leave: () => {} };
      const onHead = (status, statusText, parts, url, redirected, hasBody) => {
        if (hasBody) keep(token.number, token);
        else token.leave();
        resolve(responseOf({ __proto__: null, status, statusText, headers: parts, url, redirected, hasBody }, token));
      };
      const onFail = (message) => { reject(failure(token, message)); };
      const redirect = options.redirect === undefined ? "follow" : \`\${options.redirect}\`;
      token.number = start(url, method, listOf(headers), body, redirect, onHead, onFail);
      if (signal === undefined) return;
      const abort = () => {
        token.isAborted = true;
        token.reason = signal.reason;
        end(token.number);
        reject(token.reason);
        if (token.fail !== undefined) token.fail(token.reason);
      };
      token.leave = () => {
        token.leave = () => {};
        signal.removeEventListener("abort", abort);
      };
      signal.addEventListener("abort", abort, { __proto__: null, once: true });
    });
  } };
  return { __proto__: null, fetch, Headers };
})`;
