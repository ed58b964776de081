/**
 * `readFile` of a guest whose process may read some files. What is not granted cannot be opened, whoever asks for it.
 * But the process also reads its own program, of which a guest is shown nothing: so a path must lead to what was
 * granted.
 */
import fs from "node:fs";
import { sep } from "node:path";
import type { Session } from "./guest-session.ts";

/** So many are read at once; each has a descriptor. */
const AT_ONCE = 32;
const CHUNK_BYTES = 65_536;
const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = fs.constants;
const TEXT = new Set(["utf8", "utf-8"]);

type Outcome = { readonly text?: string; readonly bytes?: Uint8Array; readonly why?: string };

class Files {
  readonly #session: Session;
  readonly #granted: readonly string[];
  readonly #waiting: (() => void)[] = [];
  #open = 0;
  /** Where the paths lead. */
  #places: readonly string[] | undefined;

  constructor(session: Session, granted: readonly string[]) {
    this.#session = session;
    this.#granted = granted;
  }

  /** @returns a promise of the guest's realm */
  begin(path: unknown, encoding: unknown): unknown {
    const { make } = this.#session.realm;
    const { promise, resolve, reject } = make.promise();
    const wrong = whyWrong(path, encoding);
    if (wrong !== undefined) {
      reject(make.error("TypeError", `readFile: ${wrong}`));
      return promise;
    }
    const isText = encoding !== undefined;
    if (!this.#session.isCancelled) {
      this.#session.tellUnasked();
      this.#waiting.push(() => {
        this.#read(path as string, isText, (outcome) => {
          this.#open--;
          this.#advance();
          if (!this.#session.isCancelled)
            this.#session.enterLater(() => {
              if (outcome.why !== undefined) reject(make.error("Error", `readFile: ${outcome.why}`));
              else resolve(outcome.text ?? this.#given(outcome.bytes!));
            });
        });
      });
      setImmediate(() => this.#advance());
    }
    return promise;
  }

  #advance(): void {
    while (this.#open < AT_ONCE) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#open++;
      next();
    }
  }

  #read(path: string, isText: boolean, done: (outcome: Outcome) => void): void {
    const fail = (why: string): void => done({ why: `${shown(path)}: ${why}` });
    const wrong = ({ code }: NodeJS.ErrnoException): void => fail(REASONS[code ?? ""] ?? `it cannot be read (${code})`);
    fs.realpath(path, (absent, real) => {
      if (absent) return wrong(absent);
      if (!this.#isGranted(real)) return fail(NOT_GRANTED);
      // Nobody waits for the other end of a pipe.
      fs.open(real, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, (closed, file) => {
        if (closed) return wrong(closed);
        const end = (outcome: Outcome): void => fs.close(file, () => done(outcome));
        fs.fstat(file, (unknown, status) => {
          if (unknown || !status.isFile())
            return end({ why: `${shown(path)}: it is no file, but a folder or a device` });
          this.#take(file, status.size, [], 0, (error, bytes) => {
            if (error !== undefined) return end({ why: `${shown(path)}: ${error}` });
            end(isText ? { text: new TextDecoder().decode(bytes) } : { bytes });
          });
        });
      });
    });
  }

  /** Until its end, which may not be where it was. */
  #take(
    file: number,
    wanted: number,
    chunks: Uint8Array[],
    size: number,
    done: (error: string | undefined, bytes: Uint8Array) => void,
  ): void {
    const most = this.#session.limits.bytes;
    const none = new Uint8Array(0);
    const tooLarge = `it has more than ${most} bytes, which is max_serialization_bytes`;
    if (wanted > most) return done(tooLarge, none);
    const buffer = Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, wanted + 1 - size));
    fs.read(file, buffer, 0, buffer.length, null, (error, count) => {
      if (error) return done(`it cannot be read (${error.code})`, none);
      if (count === 0) return done(undefined, chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks));
      if (size + count > most) return done(tooLarge, none);
      chunks.push(buffer.subarray(0, count));
      this.#take(file, 0, chunks, size + count, done);
    });
  }

  #isGranted(path: string): boolean {
    this.#places ??= this.#granted.map((one) => {
      try {
        return fs.realpathSync(one);
      } catch {
        return one; // the kernel shows nothing there
      }
    });
    return this.#places.some((one) => path === one || path.startsWith(one.endsWith(sep) ? one : one + sep));
  }

  #given(bytes: Uint8Array): ArrayBufferView {
    const made = this.#session.realm.make.array("Uint8Array", bytes.length);
    Uint8Array.prototype.set.call(made, bytes);
    return made;
  }
}

const NOT_GRANTED = "it may not be read; allow_read of the runtime grants files and folders";
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file, or allow_read of the runtime does not grant it (ENOENT)",
  EACCES: `${NOT_GRANTED} (EACCES)`,
  EPERM: `${NOT_GRANTED} (EPERM)`,
  ELOOP: "it leads through too many links (ELOOP)",
};

function shown(path: string): string {
  return JSON.stringify(path.length > 200 ? `${path.slice(0, 199)}…` : path);
}

function whyWrong(path: unknown, encoding: unknown): string | undefined {
  if (typeof path !== "string") return "the path must be a string";
  if (!path.startsWith("/")) return `${shown(path)} is not an absolute path, which is needed`;
  if (path.includes("\0")) return `${shown(path)} is not a path`;
  if (encoding === undefined || (typeof encoding === "string" && TEXT.has(encoding.toLowerCase()))) return undefined;
  return 'the encoding must be "utf8", or left out for bytes';
}

/** @param granted absolute paths */
export function addFiles(session: Session, granted: readonly string[]): void {
  const files = new Files(session, granted);
  const act = (args: unknown[]): readonly [boolean, unknown] => [
    false,
    files.begin(args[0], args.length > 1 ? args[1] : undefined),
  ];
  session.realm.define("readFile", session.realm.make.fn(act, "readFile"));
}
