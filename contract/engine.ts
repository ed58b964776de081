/**
 * The messages between Python and the process in which JavaScript runs, each `[kind, number, …]` in CBOR, on a channel
 * of shared memory: `docs/internals/engine.md`.
 */

export const TO_ENGINE = {
  eval: 1,
  call: 2,
  cancel: 3,
  read: 4,
  bind: 5,
  return: 6,
  throw: 7,
  release: 8,
  push: 9,
  close: 10,
  fail: 11,
  forget: 12,
  module: 13,
  define: 14,
  report: 15,
  abandon: 16,
  settings: 17,
  operation: 18,
  bundle: 19,
  heap: 20,
  profile: 21,
  debug: 22,
  grant: 23,
} as const;

/** The fields after the kind. */
export const TO_ENGINE_FIELDS: Readonly<Record<keyof typeof TO_ENGINE, string>> = {
  eval:
    "request, source, file name, milliseconds or null, whether its promise is awaited, whether PRINT is sent for it, " +
    "whether it is TypeScript",
  call: "request, number of a function, arguments, milliseconds or null, whether its promise is awaited",
  cancel: "request: nobody waits for it any more",
  read: "request, stream of the engine: RESULT has its next item, or END says that there is none",
  bind: "0, path of the global, value; one that exists and is an object gets the properties of the value",
  return: "number of an INVOKE, value",
  throw: "number of an INVOKE, error `{name, message, stack}`",
  release: "0, numbers of functions that Python does not hold any more",
  push: "stream of Python, value: the item that was wanted",
  close: "stream of Python: its end",
  fail: "stream of Python, error `{name, message}`, number of its cause: its end",
  forget: "number of a segment of Python that it has released",
  module: "request, specifier, milliseconds or null, whether its promise is awaited",
  define:
    "0, name, source: a module; without a name `{resolver, loader, typescript}`: what Python has, each as two " +
    "operations, for a thread that waits and for an event loop",
  report: "request: RESULT has what the engine knows of its memory",
  settings: "0, `{depth, bytes, console}`: limits of values, and whether PRINT is sent",
  operation: "number, whether it is async: `__host_op_sync__` and `__host_op_async__` may call it from now on",
  bundle:
    "request, `{root, entry, source, isAlone, isScript, isMinified}`: RESULT has `{code, map, files}`, or `{error}`; " +
    "of an engine that runs no code of a guest",
  heap: "request: RESULT has a picture of its memory, as bytes of a `.heapsnapshot`",
  profile: "request, microseconds between two samples, or null: that is the end, and RESULT has a `.cpuprofile`",
  debug: "0: debuggers speak on the socket that follows as a descriptor",
  grant:
    "0, `{net, read, authorities}`, before any code: whether it may reach hosts, the paths that it may read, and whose " +
    "certificates it takes, as PEM or null",
  abandon: "stream of the engine, whether it is cancelled even if it was not read: Python does not read it any more",
};

export const FROM_ENGINE = {
  result: 1,
  error: 2,
  pending: 3,
  print: 4,
  end: 6,
  invoke: 7,
  hello: 8,
  want: 9,
  leave: 10,
  forget: 11,
  drop: 12,
  later: 13,
} as const;

export const FROM_ENGINE_FIELDS: Readonly<Record<keyof typeof FROM_ENGINE, string>> = {
  result: "request, value",
  error: "request, error `{kind, name, message, stack, …}`",
  pending: "request: its promise is pending; RESULT or ERROR follows once it is settled",
  print: "request or 0, level, text: what the console was told",
  end: "request: the stream that it reads has ended",
  invoke: "number, operation, arguments, request in which it is called or 0, whether it waits for the answer",
  hello: "0, `{pid, engine, version, jit}`: the first message; `jit`: it makes machine code",
  want: "stream of Python, n: more items, while none is under way",
  leave: "stream of Python: it is not read any more",
  forget: "number of a segment of the engine that it has released",
  drop: "0, numbers of operations that JavaScript does not hold any more",
  later: "0: there are timers, which may print or call something while nobody asks",
};

/** What an ERROR of a request is about, as its `kind`. */
export const ENGINE_FAULT = {
  /** JavaScript threw it. */
  thrown: 1,
  timeout: 2,
  interrupted: 3,
  /** A value that Python cannot have, or that is too large. */
  value: 4,
  /** The request itself makes no sense, such as a call of a function that was released. */
  refused: 5,
} as const;

/** What the references in values are: tag 27 on `["ipcctl.Reference", kind, number, …]`. */
export const REFERENCE = {
  /** A function of JavaScript: number, name. */
  guestFunction: 1,
  /** A ReadableStream of JavaScript: number. */
  engineStream: 2,
  /** An operation of Python, which JavaScript calls as a function: number, whether it is async, name. */
  operation: 3,
  /** An async iterable of Python: number, how many items may wait. */
  pythonStream: 4,
} as const;

/** Limits of values, unless SETTINGS says others. */
export const VALUE_LIMITS = {
  /** Levels: as many as jsrun takes. */
  depth: 100,
  /** Bytes, likewise. */
  size: 10_485_760,
} as const;

const MIB = 2 ** 20;

/**
 * How an engine is started and confined: Python compiles this to a template, and the daemon starts one so for a worker
 * that asks. `files.read`, `limits.memory` and `limits.cpuSeconds` depend on what is asked for.
 */
export const ENGINE_START = {
  /** Before its program. */
  flags: {
    bun: ["--no-env-file", "--config=/dev/null", "--tsconfig-override=/dev/null", "--no-install"],
    v8: ["--experimental-vm-modules", "--disable-warning=ExperimentalWarning"],
  },
  programs: { bun: "engine.js", v8: "engine.node.js" },
  /**
   * The signal that interrupts it: SIGINT, or for Node SIGUSR2, which becomes a SIGINT only where that ends a script.
   * Node's own handler is away for some microseconds around each script, and a SIGINT then ends the process.
   */
  interrupt: { bun: 2, v8: 12 },
  /** What a runtime may have without a limit of its own. */
  memory: 2048 * MIB,
  /** What an engine reserves and takes for itself, beside what a guest may have. */
  reserved: { bun: 512 * MIB, v8: 1024 * MIB },
  /** Without which it does not start. */
  least: { bun: 256 * MIB, v8: 1024 * MIB },
  /**
   * What it may have beyond what its guest may have, since it began: for code, structures and threads, and in all, with
   * what it has and does not use. It is ended beyond the first, and the kernel gives it no more than the second.
   */
  room: { used: 16 * MIB, all: 40 * MIB },
  /** Of its environment: the bytes that its guest may have, by which it limits itself before it runs any code. */
  limit: "IPCCTL_RUNTIME_MEMORY",
  /** By how much its machine is larger for a guest that has a limit: it collects garbage when a quarter is used. */
  ram_factor: 4,
  /** MiB without which V8 does not start. */
  old_space_min: 8,
  /** Variables that a guest has from its program. */
  passed: ["LANG", "LC_ALL", "LC_CTYPE", "TZ"],
  policy: {
    version: 1,
    description: "JavaScript that a program evaluates: no network, no files, no programs.",
    extends: "strict",
    files: { scratch: null },
    /**
     * JavaScriptCore reserves two gigabytes for code and for shapes of objects, all of which counts against a limit of
     * memory. Without room for code it runs many times slower, and does not say so. What mimalloc only reserves would
     * count as well. Garbage is collected each second otherwise, whether there is any or not.
     */
    env: {
      set: {
        BUN_JSC_jitMemoryReservationSize: "67108864",
        BUN_JSC_structureHeapSizeInKB: "131072",
        MIMALLOC_ARENA_EAGER_COMMIT: "0",
        BUN_RUNTIME_TRANSPILER_CACHE_PATH: "0",
        BUN_GC_TIMER_INTERVAL: "300000",
      },
    },
    process: { procfs: "self", threads: 64 },
    limits: { addressSpace: null, cpuPercent: null, pids: null, fileSize: null, openFiles: 512 },
    audit: { denied: false },
  },
} as const;

/**
 * From this many bytes on a value crosses in memory of its own, written once, in place of the ring, through which it is
 * copied several times. New memory costs a fault for each of its pages on both sides, and the ring is always there:
 * measured in turns, the ring takes a third of the time at 128 KiB both ways; to JavaScript as long at 4 MiB and 1.5
 * times as long at 8; to Python 0.7 of the time at 10 MiB and 1.8 times as long at 16.
 */
export const LARGE_BYTES = { toEngine: 4_194_304, toPython: 12_582_912 } as const;

/**
 * Bytes to Python of `least` and more are written into memory that the engine keeps for them, one value at a time. The
 * first of its last eight bytes is 1 until Python has copied the value. It is there already, and what does not fit one
 * frame of the ring crosses that in turns: measured, both take as long at 128 KiB, and this a fifth of the time from
 * 512 KiB on.
 */
export const KEPT_ROOM = { least: 196_608, bytes: 16_777_216 } as const;

/** The operation by which the engine, which may make no memory of that kind, asks for some: of so many bytes. */
export const ROOM_OPERATION = 4_294_967_295;
