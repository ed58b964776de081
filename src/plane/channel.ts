/**
 * The client's end of a channel to a worker: makes the segment, hands it to the worker through its shim, sends and
 * receives.
 */
import { ENDED, LATENCY_CLASSES, PART, SEGMENT, STATISTICS } from "../../contract/segment.ts";
import { ByteQueue } from "../base/byte-queue.ts";
import { limit } from "../base/limits.ts";
import { openStream, type StreamEvents, type StreamSocket } from "../base/platform.ts";
import { acceptOn } from "./meeting.ts";
import { offerOn, openSegment, poker, type OpenSegment, type Poke } from "./meet.ts";
import { busyPoll, type Awaited } from "./busy-poll.ts";
import { BrokenChannel, PeerGone, SharedRingBuffer } from "./ring.ts";
import { Sharing } from "./sharing.ts";
import { closeFd, core, drain, ring, waitReadable } from "./system.ts";
import { Interrupts, Wanted } from "./interrupts.ts";

export { BrokenChannel, PeerGone } from "./ring.ts";

const { asked: ASKED, ringA: RING_A, ringB: RING_B, data: DATA_OFFSET } = SEGMENT;
const { more: MORE, last: LAST } = PART;
const MESSAGE_BYTES_MAX = limit("messageBytes");
const OUTBOX_BYTES_MAX = limit("unreadBytes");
const OUTBOX_TIDY = 10_000;
const ROOM_MS = 2;
/** How long messages are taken in one turn of the event loop. */
const TAKE_MS = 4;

export type ChannelListener = {
  /** A whole message, still encoded. */
  readonly onMessage: (bytes: Uint8Array) => void;
  /** The client wants a request ended; of the side that was offered the channel. */
  readonly onInterrupt?: (number: number) => void;
  /** The other side has rung, and nothing of that is taken yet. */
  readonly onHeard?: () => void;
  /** The other side has rung before it sends. Without this, it is looked out for. */
  readonly onRoused?: () => void;
  /** The worker is gone, or violated the protocol. Called once. */
  readonly onClose: (error: Error) => void;
};

type Bell = Pick<StreamSocket, "terminate" | "ref" | "unref">;
/** Hears the bells of a channel, and the end of its connection. */
export type OpenBell = (of: { readonly fd: number }, on: Pick<StreamEvents, "data" | "close">) => Promise<Bell>;

export class Channel implements Disposable {
  /** The shim knows by this descriptor that we are alive; the memory stays mapped as long. */
  readonly #segment: OpenSegment;
  /** Of the side that offered the channel. */
  readonly #interrupts: Interrupts | undefined;
  /** Of the side that was offered it. */
  readonly #wanted: Wanted | undefined;
  readonly #asked: Int32Array;
  /** Of the side that was offered it, which counts what it serves. */
  readonly #statistics: Statistics | undefined;
  /** Memory that is shared instead of copied. */
  readonly sharing: Sharing;
  readonly #tx: SharedRingBuffer;
  readonly #rx: SharedRingBuffer;
  /** Bytes on it are bells; its end means that the worker is gone. */
  readonly #fd: number;
  #socket: Bell | undefined;
  #isRef = true;
  readonly #listener: ChannelListener;
  /**
   * Messages without room in the ring, from `#outboxAt` on: removing from the front of a long array would move all of
   * it.
   */
  #outbox: Uint8Array[] = [];
  #outboxAt = 0;
  #outboxBytes = 0;
  #flushTimer: Timer | undefined;
  readonly #parts = new ByteQueue();
  #isOpen = true;
  #isPaused = false;
  /** The worker is gone: its last messages are taken, all of them. */
  #isEnding = false;
  /** Polls, or is about to: the worker need not ring. */
  #isLooking = false;
  readonly #awaited: Awaited;

  /** @param poke of the side that offers: has code that runs look at what is to be interrupted */
  private constructor(
    segment: OpenSegment,
    poke: Poke | undefined,
    listener: ChannelListener,
    isPassing = false,
    openBell: OpenBell = openStream,
  ) {
    const { memory, bell, descriptors, capacity } = segment;
    this.#segment = segment;
    if (poke)
      this.#interrupts = new Interrupts(memory, segment.version, () => {
        ring(bell); // for a worker that sleeps
        poke(); // for a worker whose code runs
      });
    else {
      this.#wanted = new Wanted(memory);
      this.#statistics = new Statistics(memory);
    }
    this.#asked = new Int32Array(memory.buffer, memory.byteOffset + ASKED, 1);
    const [a, b] = [DATA_OFFSET, DATA_OFFSET + capacity];
    const isOffered = poke !== undefined;
    this.#tx = new SharedRingBuffer(memory, isOffered ? RING_A : RING_B, isOffered ? a : b, capacity, true);
    this.#rx = new SharedRingBuffer(memory, isOffered ? RING_B : RING_A, isOffered ? b : a, capacity, false);
    this.sharing = new Sharing(descriptors, isPassing);
    this.#awaited = { rx: this.#rx, isWaking: false, endLook: () => this.#endLook() };
    this.#fd = bell;
    this.#listener = listener;
    setImmediate(() => this.#isOpen && this.#sleep()); // the worker may have sent something already
    void this.#hear(openBell);
  }

  /**
   * @param shimSocket the socket of the worker's shim
   * @throws IpcError NOT_RUNNING, DEADLINE if no runtime attaches in time, FAILED if the worker cannot have one
   */
  static async open(shimSocket: string, name: string, timeoutMs: number, listener: ChannelListener): Promise<Channel> {
    return new Channel(await openSegment(shimSocket, name, timeoutMs, ""), poker(shimSocket), listener);
  }

  /** Offers one to whoever reads the other end of a SEQPACKET socket. @throws BrokenChannel if nobody takes it */
  static offer(socket: number, listener: ChannelListener): Channel {
    return new Channel(offerOn(socket), () => undefined, listener);
  }

  /**
   * Takes the one that is offered there: the side that serves, where a client offers.
   * @throws BrokenChannel if nothing is offered in time, or it is not what a channel is
   */
  static accept(socket: number, timeoutMs: number, listener: ChannelListener): Channel {
    return Channel.serve(acceptOn(socket, timeoutMs), listener);
  }

  /**
   * The client's end of one that was opened elsewhere. Code that runs at the other end is not woken by a signal, and
   * memory that it shares is passed on, not mapped.
   */
  static client(segment: OpenSegment, listener: ChannelListener): Channel {
    return new Channel(segment, () => undefined, listener, true);
  }

  /** The serving end of one that was taken. @param openBell how its bells are heard, if not as any stream */
  static serve(segment: OpenSegment, listener: ChannelListener, openBell?: OpenBell): Channel {
    return new Channel(segment, undefined, listener, false, openBell);
  }

  /** Of its layout: what the worker's runtime knows. */
  get version(): number {
    return this.#segment.version;
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Counts one more request; the difference to the worker's count of answers is shown as waiting. */
  countRequest(): void {
    this.#asked[0]!++;
  }

  /** Counts one more answer, for `status`. */
  countAnswer(isError: boolean, nanoseconds: number): void {
    const statistics = this.#statistics;
    if (!statistics) return;
    const micros = nanoseconds / 1000;
    const latency = micros < 1 ? 0 : Math.min(LATENCY_CLASSES - 1, Math.floor(Math.log2(micros)) + 1);
    statistics.add(STATISTICS.latencies + latency, 1);
    statistics.add(STATISTICS.nanoseconds, Math.round(nanoseconds));
    statistics.add(STATISTICS.answered, 1);
    if (isError) statistics.add(STATISTICS.errors, 1);
  }

  /** Sends one message; messages without room wait in order. @throws BrokenChannel if the channel is closed */
  send(message: Uint8Array): void {
    if (!this.#isOpen) throw new BrokenChannel("the channel is closed");
    if (this.#outboxBytes > OUTBOX_BYTES_MAX) {
      const error = new BrokenChannel(`the worker left more than ${OUTBOX_BYTES_MAX} bytes unread`);
      this.#end(error, ENDED.unread);
      throw error;
    }
    this.#tx.tellCore(core());
    this.#statistics?.add(STATISTICS.bytesOut, message.length);
    const most = this.#segment.capacity / 4;
    if (message.length <= most) this.#put(message, false);
    else {
      for (let at = 0; at < message.length; at += most - 1) {
        const part = new Uint8Array(Math.min(most, message.length - at + 1));
        part[0] = at + most - 1 >= message.length ? LAST : MORE;
        part.set(message.subarray(at, at + most - 1), 1);
        this.#put(part, true);
      }
    }
    this.#ringIfAsleep();
  }

  /** The same, before `waitBlocking`: the worker need not ring for the answer. */
  sendBlocking(message: Uint8Array): void {
    this.#rx.cancelSleep();
    try {
      this.send(message);
    } catch (error) {
      if (this.#isOpen) this.#sleep();
      throw error;
    }
  }

  /** Something of what was sent waits for room. Sends as much of it as there is room for now. */
  get isFull(): boolean {
    if (this.#outbox.length > 0) this.#flush();
    return this.#isOpen && this.#outbox.length > 0;
  }

  #put(frame: Uint8Array, isOwn: boolean): void {
    if (this.#outbox.length === 0 && this.#tx.trySend(frame)) return;
    this.#outbox.push(isOwn ? frame : frame.slice());
    this.#outboxBytes += frame.length;
    if (this.#outbox.length === 1) this.#flushTimer = setTimeout(() => this.#flush(), ROOM_MS);
  }

  /** The worker rings once there is room; a timer covers a missed bell. */
  #flush(): void {
    clearTimeout(this.#flushTimer);
    if (!this.#isOpen) return;
    try {
      const outbox = this.#outbox;
      let at = this.#outboxAt;
      for (; at < outbox.length && this.#tx.trySend(outbox[at]!); at++) this.#outboxBytes -= outbox[at]!.length;
      this.#outboxAt = at;
      if (at === outbox.length || at > OUTBOX_TIDY) {
        this.#outbox = outbox.slice(at);
        this.#outboxAt = 0;
      }
      this.#ringIfAsleep();
    } catch (error) {
      return this.#end(error as Error);
    }
    if (this.#outbox.length > 0) this.#flushTimer = setTimeout(() => this.#flush(), ROOM_MS);
  }

  /**
   * Announces that an answer will be awaited: busy-polls for it before the event loop continues, if that pays, then
   * sleeps. To be called before the request is sent.
   */
  expect(): void {
    if (this.#isLooking || !this.#isOpen) return;
    this.#isLooking = true;
    this.#rx.cancelSleep();
    busyPoll.expect(this.#awaited);
  }

  #endLook(): void {
    this.#isLooking = false;
    this.#awaited.isWaking = false;
    if (!this.#isOpen) return;
    if (this.#rx.hasData || this.#wanted) this.#takeAll();
    else this.#sleep();
  }

  /**
   * A message is about to follow: if the other side sleeps, it wakes up while that is being made. Only advice, which
   * the other side takes where looking out pays.
   */
  rouse(): void {
    if (!this.#isOpen || !this.#tx.consumerSleeps) return;
    this.#tx.tellCore(core());
    this.#ringIfAsleep();
  }

  /** For how many others this program is awake, so that the other side knows whether looking out for it pays. */
  tellAwake(others: number): void {
    this.#tx.tellAwake(others);
  }

  /**
   * Blocks this thread until a message was taken, for programs that have nothing else to do. False after the timeout.
   * @param timeoutMs below zero, none
   * @param other a descriptor that ends it, too, once it is readable
   * @param isLooking false: it sleeps from the beginning
   */
  waitBlocking(timeoutMs: number, other?: number, isLooking = true): boolean {
    this.#rx.cancelSleep();
    const hasFound = isLooking ? busyPoll.lookBlocking(this.#awaited) : this.#rx.hasData;
    this.#awaited.isWaking = false;
    if (hasFound) return this.#takeBlocking();
    let hasEnded = false;
    if (this.#isOpen && this.#rx.prepareSleep())
      hasEnded = waitReadable(this.#fd, timeoutMs, other) && !drain(this.#fd);
    if (this.#rx.hasData) return this.#takeBlocking();
    if (hasEnded) this.#end(this.#reason());
    return false;
  }

  #takeBlocking(): boolean {
    this.#takeAll(true);
    return true;
  }

  #sleep(): void {
    if (!this.#rx.prepareSleep()) this.#takeAll();
  }

  /** @param isBlocking takes everything, however little is wanted at present */
  #takeAll(isBlocking = false): void {
    const isAnyway = isBlocking || this.#isEnding;
    if (this.#isPaused && !isAnyway) return;
    let isMore = false;
    let bytesLeft = this.#segment.capacity; // of a dead worker: processes that it left behind may still write
    try {
      this.#rx.cancelSleep();
      let deadline = 0;
      let count = 0;
      for (let frame = this.#rx.tryReceive(); frame !== undefined; frame = this.#rx.tryReceive()) {
        this.#onFrame(frame);
        if (this.#isEnding) {
          bytesLeft -= frame.length + 8;
          if (bytesLeft > 0) continue;
          break;
        }
        if (this.#isPaused && !isAnyway) break;
        if ((++count & 7) !== 0) continue;
        if (this.#rx.needsBell()) this.#ring();
        if (deadline === 0) deadline = performance.now() + TAKE_MS;
        if (performance.now() < deadline) continue;
        isMore = true; // from a worker that sends without end: timers and others get their turn
        break;
      }
      if (this.#rx.needsBell()) this.#ring(); // it waits for room
    } catch (error) {
      return this.#end(error as Error);
    }
    if (this.#outbox.length > 0) this.#flush(); // answers mean that there is room
    if (!this.#isOpen || this.#isLooking || this.#isPaused || this.#isEnding) return;
    if (isMore) setImmediate(() => this.#isOpen && !this.#isLooking && this.#takeAll());
    else this.#sleep();
    if (this.#wanted && !isMore && this.#isOpen) this.#takeInterrupts(this.#wanted);
  }

  /** After the messages: a request arrives before its interrupt. */
  #takeInterrupts(wanted: Wanted): void {
    if (wanted.isGone) return this.#end(this.#reason());
    for (const number of wanted.take()) this.#listener.onInterrupt?.(number);
  }

  #onFrame(frame: Uint8Array): void {
    this.#statistics?.add(STATISTICS.bytesIn, frame.length);
    const kind = frame[0];
    if (kind !== MORE && kind !== LAST) return this.#listener.onMessage(frame);
    this.#parts.push(frame.subarray(1));
    if (this.#parts.length > MESSAGE_BYTES_MAX)
      throw new BrokenChannel(`a message of more than ${MESSAGE_BYTES_MAX} bytes`);
    if (kind === MORE) return this.#rx.accept();
    const whole = this.#parts.take(this.#parts.length);
    this.#rx.accept(whole);
    this.#listener.onMessage(whole);
  }

  /** For a listener whose code may be ended at any point: what it takes is kept until {@link Channel.accept}. */
  keepTaken(): void {
    this.#rx.keep();
  }

  /** The message that was taken last cannot be lost any more; or this one is as if it was just taken. */
  accept(next?: Uint8Array): void {
    this.#rx.accept(next);
  }

  /** What was taken last and not accepted; for {@link Channel.takeAgain}. */
  takeBack(): Uint8Array | undefined {
    return this.#rx.takeBack();
  }

  /** @throws BrokenChannel */
  takeAgain(frame: Uint8Array): void {
    this.#onFrame(frame);
  }

  #ringIfAsleep(): void {
    if (!this.#tx.needsBell()) return;
    this.#ring();
    this.#awaited.isWaking = true;
  }

  #ring(): void {
    busyPoll.counts.bells++;
    ring(this.#fd);
  }

  async #hear(openBell: OpenBell): Promise<void> {
    try {
      this.#socket = await openBell(
        { fd: this.#fd },
        {
          data: () => {
            if (!this.#isOpen || this.#isLooking) return;
            this.#listener.onHeard?.();
            const isEarly = !this.#rx.hasData && this.#wanted !== undefined;
            this.#takeAll();
            if (!isEarly) return;
            if (this.#listener.onRoused) this.#listener.onRoused();
            else this.expect();
          },
          close: () => {
            if (this.#isOpen) this.#endAfterAll();
          },
        },
      );
    } catch {
      closeFd(this.#fd);
      return this.#end(new BrokenChannel("the offered bell is not a socket"));
    }
    if (!this.#isOpen) this.#socket.terminate();
    else if (!this.#isRef) this.#socket.unref();
  }

  /** Takes the last messages, and then closes. */
  #endAfterAll(): void {
    this.#isEnding = true;
    this.#takeAll();
    this.#end(this.#reason());
  }

  /** Stops taking messages for now: the worker waits once the ring is full. */
  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    if (this.#isOpen) this.#takeAll();
  }

  /** A request was interrupted and has not ended. */
  get isInterrupting(): boolean {
    return this.#interrupts?.isAny === true;
  }

  /** The worker is gone, and its last messages are being taken. */
  get isEnding(): boolean {
    return this.#isEnding;
  }

  /** Whether an open channel keeps the program alive. */
  setRef(isRef: boolean): void {
    this.#isRef = isRef;
    if (isRef) this.#socket?.ref();
    else this.#socket?.unref();
  }

  /** Interrupts a request, now and again until {@link Channel.settled} says that it has ended. */
  interrupt(number: number): void {
    this.#interrupts?.want(number);
  }

  /** A request has ended. */
  settled(number: number): void {
    if (this.#interrupts?.isAny === true) this.#interrupts.ended(number);
  }

  /** Why the other side is gone, if it said so. */
  #reason(): Error {
    if (!this.#interrupts) return new PeerGone("the client is gone");
    switch (this.#interrupts.why) {
      case ENDED.unread:
        return new PeerGone(
          "the worker gave this channel up, since what it sent was not read; its code was interrupted",
        );
      case ENDED.broken:
        return new BrokenChannel("the worker could not read a message, and closed the channel");
      case ENDED.fault:
        return new PeerGone("the worker ended this channel after a fault of its own, which its log shows");
      default:
        return new PeerGone();
    }
  }

  #end(error: Error, told?: number): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#interrupts?.leave();
    this.#wanted?.end(
      told ?? (error instanceof PeerGone ? ENDED.closed : error instanceof BrokenChannel ? ENDED.broken : ENDED.fault),
    );
    if (this.#socket) this.#socket.terminate();
    if (this.#segment.life !== undefined) closeFd(this.#segment.life);
    this.sharing.close();
    this.#listener.onClose(error);
  }

  [Symbol.dispose](): void {
    this.#end(new BrokenChannel("the channel was closed"));
  }
}

/** Words of 64 bits in the segment, each as two of 32: a bigint would be made for each message. */
class Statistics {
  readonly #halves: Uint32Array;

  constructor(memory: Uint8Array) {
    this.#halves = new Uint32Array(memory.buffer, memory.byteOffset + SEGMENT.statistics, 2 * STATISTICS.words);
  }

  /** @param count a safe integer from 0 */
  add(word: number, count: number): void {
    const halves = this.#halves;
    const low = halves[2 * word]! + (count % 2 ** 32);
    halves[2 * word] = low;
    if (low >= 2 ** 32 || count >= 2 ** 32)
      halves[2 * word + 1]! += Math.floor(count / 2 ** 32) + (low >= 2 ** 32 ? 1 : 0);
  }
}
