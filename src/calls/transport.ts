/**
 * What a session of calls needs from its transport: a channel in shared memory, frames on a byte stream, or lines of
 * JSON.
 */

/** `[kind, number, …]`, as contract/messages.ts has them. */
export type Message = readonly [kind: number, number: number, ...fields: unknown[]];

/** The role of one side of a session. It does not depend on the language, or on the side that made the transport. */
export type Role = "client" | "server";

export type TransportListener = {
  /** @throws an error if the other side violated the protocol, which ends the transport */
  readonly onMessage: (message: Message) => void;
  /** A well-formed message with a value that this program or its engine cannot hold. */
  readonly onUnreadable: (kind: number, number: number, cause: Error) => void;
  /** The other side wants a request to end. Only for transports that do not use the message `cancel` for this. */
  readonly onInterrupt?: (number: number) => void;
  /**
   * The other side is gone ({@link PeerGone}), or one side violated the protocol. Called once, and last.
   */
  readonly onClose: (cause: Error) => void;
};

export interface Transport extends Disposable {
  readonly isOpen: boolean;
  /** The other side is gone, and its last messages are being taken. */
  readonly isEnding: boolean;
  /** Something was interrupted and has not ended. */
  readonly isInterrupting: boolean;

  /**
   * No message is delivered before this call. Must be called once. @param role of this side: the two roles have
   * different messages
   */
  listen(role: Role, listener: TransportListener): void;

  /**
   * Messages for which there is no room wait in order.
   * @throws CodecError for a value that cannot be sent; BrokenChannel if the transport has ended
   */
  send(message: Message): void;

  /** The other side has released memory that was shared instead of copied. */
  forget(number: number): void;

  /** An answer will be awaited. Must be called before the request is sent. */
  expect(): void;
  /** One more request that will be answered. */
  countRequest(): void;
  /** One more request was answered, which took so long. */
  countAnswer(isError: boolean, nanoseconds: number): void;

  /** Interrupts a request of this side, repeatedly until {@link Transport.settled} reports that it has ended. */
  interrupt(number: number): void;
  /** A request has ended. */
  settled(number: number): void;

  /** Takes no more messages for now: the other side waits once there is no room. */
  pause(): void;
  resume(): void;
  /** Whether it keeps the program alive. */
  setRef(isRef: boolean): void;

  /** Only for transports with which a caller can block its thread until there is an answer. */
  readonly blocking?:
    | {
        send(message: Message): void;
        /** Waits until messages were taken, or this many milliseconds have passed. */
        wait(timeoutMs: number): void;
      }
    | undefined;
}
