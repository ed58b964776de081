/**
 * `IPCCTL_TRACE=1` prints each message of a call on the side that handles it: docs/internals/calls.md has the format of
 * a line.
 */
import { inspect } from "node:util";
import { TO_CLIENT, TO_WORKER } from "../../contract/messages.ts";
import type { Message, Role, Transport, TransportListener } from "./transport.ts";

const isOn = process.env.IPCCTL_TRACE === "1";
/** Limits on what is printed of a message. */
const SHOWN = { depth: 2, breakLength: Number.POSITIVE_INFINITY, maxStringLength: 100, maxArrayLength: 10 };

/** The transport itself or, if tracing is on, one that also prints a line to stderr for each message. */
export function traced(transport: Transport, role: Role): Transport {
  return isOn ? new Traced(transport, role) : transport;
}

function namesOf(table: Readonly<Record<string, number>>): ReadonlyMap<number, string> {
  return new Map(Object.entries(table).map(([name, number]) => [number, name]));
}

const TO_SERVER_NAMES = namesOf(TO_WORKER);
const TO_CLIENT_NAMES = namesOf(TO_CLIENT);

class Traced implements Transport {
  readonly #inner: Transport;
  readonly #role: Role;
  readonly blocking: Transport["blocking"];

  constructor(inner: Transport, role: Role) {
    this.#inner = inner;
    this.#role = role;
    const { blocking } = inner;
    if (blocking)
      this.blocking = {
        send: (message) => {
          this.#show("→", message);
          blocking.send(message);
        },
        wait: (timeoutMs) => blocking.wait(timeoutMs),
      };
  }

  #show(arrow: "→" | "←", [kind, number, ...fields]: Message): void {
    const isToServer = (this.#role === "client") === (arrow === "→");
    const name = (isToServer ? TO_SERVER_NAMES : TO_CLIENT_NAMES).get(kind) ?? `kind ${String(kind)}`;
    this.#say(`${arrow} ${name} ${number}${fields.map((field) => ` ${inspect(field, SHOWN)}`).join("")}`);
  }

  /** Seconds since the epoch, so that lines of both sides can be sorted. */
  #say(what: string): void {
    const seconds = ((performance.timeOrigin + performance.now()) / 1000).toFixed(6);
    process.stderr.write(`ipcctl trace ${seconds} ${this.#role}[${process.pid}] ${what}\n`);
  }

  listen(role: Role, listener: TransportListener): void {
    const { onInterrupt } = listener;
    this.#inner.listen(role, {
      onMessage: (message) => {
        this.#show("←", message);
        listener.onMessage(message);
      },
      onUnreadable: (kind, number, cause) => {
        this.#show("←", [kind, number, cause.message]);
        listener.onUnreadable(kind, number, cause);
      },
      ...(onInterrupt && {
        onInterrupt: (number) => {
          this.#say(`← interrupt ${number}`);
          onInterrupt(number);
        },
      }),
      onClose: (cause) => {
        this.#say(`is over: ${cause.message}`);
        listener.onClose(cause);
      },
    });
  }

  send(message: Message): void {
    this.#show("→", message);
    this.#inner.send(message);
  }

  interrupt(number: number): void {
    this.#say(`→ interrupt ${number}`);
    this.#inner.interrupt(number);
  }

  get isOpen(): boolean {
    return this.#inner.isOpen;
  }

  get isEnding(): boolean {
    return this.#inner.isEnding;
  }

  get isInterrupting(): boolean {
    return this.#inner.isInterrupting;
  }

  forget(number: number): void {
    this.#inner.forget(number);
  }

  expect(): void {
    this.#inner.expect();
  }

  countRequest(): void {
    this.#inner.countRequest();
  }

  countAnswer(isError: boolean, nanoseconds: number): void {
    this.#inner.countAnswer(isError, nanoseconds);
  }

  settled(number: number): void {
    this.#inner.settled(number);
  }

  pause(): void {
    this.#inner.pause();
  }

  resume(): void {
    this.#inner.resume();
  }

  setRef(isRef: boolean): void {
    this.#inner.setRef(isRef);
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }
}
