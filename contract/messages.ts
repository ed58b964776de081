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
    "id: the client does not want the answer any more. A stream is closed, which END confirms. Without shared memory CANCEL also interrupts: a call at once, a stream when it comes the second time",
  credit: "id, n: the worker may send n more items of a stream",
  bind: "0, name: the client answers INVOKE for this name",
  return: "id, value: result of INVOKE",
  throw: "id, error: INVOKE failed",
  unbind: "0, name: it does not any more",
  push: "id of a stream of the client, value: one item",
  close: "id of a stream of the client: its end",
  fail: "id of a stream of the client, error: its end",
  forget: "number of a segment of the client that it has released",
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
  output: "id, stream (`stdout` or `stderr`), text that the code printed",
  stream: "id: the answer is a stream; the worker sends items by credit",
  item: "id, value: one item of the stream",
  end: "id: the end of the stream",
  invoke: "id, name, args, kwargs: a call of a bound function",
  hello: "0, `{pid, python, implementation, exposed}`: the first message",
  want: "id of a stream of the client, n: the client may send n more items",
  leave: "id of a stream of the client: the worker does not read it any more",
  forget: "number of a segment of the worker that it has released",
};
