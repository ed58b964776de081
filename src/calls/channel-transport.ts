/**
 * Calls over a channel in shared memory: the encoding is CBOR, and arrays in shared memory are shared instead of
 * copied.
 */
import { TO_CLIENT, TO_WORKER } from "../../contract/messages.ts";
import { decode, decodeHead } from "../plane/cbor-decode.ts";
import { Encoder } from "../plane/cbor-encode.ts";
import { BrokenChannel, type Channel, type ChannelListener } from "../plane/channel.ts";
import { CodecError } from "../plane/values.ts";
import { checked } from "./codec.ts";
import type { Message, Role, Transport, TransportListener } from "./transport.ts";

export class ChannelTransport implements Transport {
  readonly #channel: Channel;
  readonly #encoder: Encoder;
  #listener: TransportListener | undefined;
  #hasStreams = false;
  readonly blocking = {
    send: (message: Message): void => this.#channel.sendBlocking(this.#encoder.encode(message)),
    wait: (timeoutMs: number): void => void this.#channel.waitBlocking(timeoutMs),
  };

  static async open(open: (listener: ChannelListener) => Channel | Promise<Channel>): Promise<ChannelTransport> {
    // Nothing arrives before this turn of the event loop is over; by then the session listens.
    const transport: ChannelTransport = new ChannelTransport(
      await open({
        onMessage: (bytes) => transport.#take(bytes),
        onInterrupt: (number) => transport.#listener?.onInterrupt?.(number),
        onClose: (error) => transport.#listener?.onClose(error),
      }),
    );
    return transport;
  }

  private constructor(channel: Channel) {
    this.#channel = channel;
    this.#encoder = new Encoder(channel.sharing.lend);
  }

  get isOpen(): boolean {
    return this.#channel.isOpen;
  }

  get isEnding(): boolean {
    return this.#channel.isEnding;
  }

  get isInterrupting(): boolean {
    return this.#channel.isInterrupting;
  }

  /** Of its layout: what the other side's runtime knows. */
  get version(): number {
    return this.#channel.version;
  }

  listen(role: Role, listener: TransportListener): void {
    this.#listener = listener;
    this.#hasStreams = role === "server";
    const { forget } = role === "client" ? TO_WORKER : TO_CLIENT;
    this.#channel.sharing.onForget = (number) => this.isOpen && this.send([forget, number]);
  }

  send(message: Message): void {
    this.#channel.send(this.#encoder.encode(message));
  }

  #take(bytes: Uint8Array): void {
    let message: unknown;
    try {
      message = decode(bytes, this.#channel.sharing.borrow, this.#hasStreams);
    } catch (error) {
      const isTheirs = error instanceof BrokenChannel || (error instanceof CodecError && error.code !== "TYPE");
      const head = isTheirs ? undefined : decodeHead(bytes);
      if (!head) throw error;
      return this.#listener!.onUnreadable(...head, error as Error);
    }
    this.#listener!.onMessage(checked(message));
  }

  forget(number: number): void {
    this.#channel.sharing.forget(number);
  }

  expect(): void {
    this.#channel.expect();
  }

  rouse(): void {
    this.#channel.rouse();
  }

  tellAwake(others: number): void {
    this.#channel.tellAwake(others);
  }

  countRequest(): void {
    this.#channel.countRequest();
  }

  countAnswer(isError: boolean, nanoseconds: number): void {
    this.#channel.countAnswer(isError, nanoseconds);
  }

  interrupt(number: number): void {
    this.#channel.interrupt(number);
  }

  settled(number: number): void {
    this.#channel.settled(number);
  }

  pause(): void {
    this.#channel.pause();
  }

  resume(): void {
    this.#channel.resume();
  }

  setRef(isRef: boolean): void {
    this.#channel.setRef(isRef);
  }

  [Symbol.dispose](): void {
    this.#channel[Symbol.dispose]();
  }
}
