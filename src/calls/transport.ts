/**
 * What a session of calls needs from its transport: a channel in shared memory, frames on a byte stream, or lines of
 * JSON.
 */

/** `[kind, number, …]`, as contract/messages.ts has them. */
export type Message = readonly [kind: number, number: number, ...fields: unknown[]];

/** Of one side of a session: not of a language, and not of who made the transport. */
export type Role = "client" | "server";

export type TransportListener = {
  /** @throws whatever says that the other side broke the rules, which ends the transport */
  readonly onMessage: (message: Message) => void;
  /** A message that is well-formed, but holds more than this program can, or what its engine does not know. */
  readonly onUnreadable: (kind: number, number: number, cause: Error) => void;
  /** The other side wants a request ended. Of a transport that tells of it otherwise than by the message `cancel`. */
  readonly onInterrupt?: (number: number) => void;
  /**
   * The other side is gone ({@link PeerGone}), or one side broke the rules. Called once, and nothing comes after it.
   */
  readonly onClose: (cause: Error) => void;
};

export interface Transport extends Disposable {
  readonly isOpen: boolean;
  /** The other side is gone, and what it said last is being taken. */
  readonly isEnding: boolean;
  /** Something was interrupted and has not ended. */
  readonly isInterrupting: boolean;

  /** Nothing is given before. To be called once. @param role of this side: the two have messages of their own */
  listen(role: Role, listener: TransportListener): void;

  /**
   * What finds no room waits in order.
   * @throws CodecError for a value without a form here; BrokenChannel if it is over
   */
  send(message: Message): void;

  /** The other side has let go of something that was handed over instead of copied. */
  forget(number: number): void;

  /** An answer will be awaited. To be called before what asks for it is sent. */
  expect(): void;
  /** One more request that will be answered. */
  countRequest(): void;
  /** One more request was answered, which took so long. */
  countAnswer(isError: boolean, nanoseconds: number): void;

  /** Has a request of ours interrupted, now and until {@link Transport.settled} says that it has ended. */
  interrupt(number: number): void;
  /** A request has ended. */
  settled(number: number): void;

  /** Takes nothing more for the time being: the other side waits once there is no room. */
  pause(): void;
  resume(): void;
  /** Whether it keeps the program alive. */
  setRef(isRef: boolean): void;

  /** Where a caller can block its thread until there is an answer. */
  readonly blocking?:
    | {
        send(message: Message): void;
        /** Until messages were taken, or so many milliseconds are over. */
        wait(timeoutMs: number): void;
      }
    | undefined;
}
