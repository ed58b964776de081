/** The messages of calls, each `[number, id, …]` in CBOR: `docs/internals/shm-layout.md`. */

export const TO_WORKER = {
  call: 1,
  eval: 2,
  cancel: 3,
  credit: 4,
  bind: 5,
  return: 6,
  throw: 7,
  unbind: 8,
  push: 9,
  close: 10,
  fail: 11,
  forget: 12,
} as const;

/** The fields after the number. */
export const TO_WORKER_FIELDS: Readonly<Record<keyof typeof TO_WORKER, string>> = {
  call: "id, name, args, kwargs or null",
  eval: 'id, code, options `{namespace, mode: "value"\\|"repr"\\|"exec"\\|"forget", capture}`; `forget` drops the namespace',
  cancel:
    "id: interest is lost; a stream is closed, which END confirms. Where there is no shared memory it interrupts as well: a request at once, a stream the second time",
  credit: "id, n: so many more items of a stream may come",
  bind: "0, name: the client answers calls of this name",
  return: "id, value: answer to INVOKE",
  throw: "id, error: likewise",
  unbind: "0, name",
  push: "id of a stream of the client, value",
  close: "id: the end of it",
  fail: "id, error",
  forget: "number of a segment of the client that is gone",
};

export const TO_CLIENT = {
  result: 1,
  error: 2,
  output: 3,
  stream: 4,
  item: 5,
  end: 6,
  invoke: 7,
  hello: 8,
  want: 9,
  leave: 10,
  forget: 11,
} as const;

export const TO_CLIENT_FIELDS: Readonly<Record<keyof typeof TO_CLIENT, string>> = {
  result: "id, value",
  error: "id, error `{type, message, traceback, cause, code}`",
  output: "id, stream, text",
  stream: "id: the answer is a stream; items come by credit",
  item: "id, value",
  end: "id",
  invoke: "id, name, args, kwargs: call of a bound function",
  hello: "0, `{pid, python, implementation, exposed}`: the first message",
  want: "id of a stream of the client, n: so many more items",
  leave: "id: no more of it",
  forget: "number of a segment of the worker that is gone",
};
