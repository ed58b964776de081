/**
 * Asks persons about calls of high risk, by whichever daemon is there. A call goes on waiting while there is none: the
 * next one is asked again, by the same id, and knows what was said to the one before.
 */
import { IpcError } from "../base/errors.ts";
import { bindingOf, sealOf, type Binding, type Decision } from "../host/approval.ts";
import type { Call } from "../host/pipeline.ts";
import { Refusal } from "../host/wire.ts";

/** As `src/desk/approvals.ts` answers. */
type Verdict =
  | { readonly verdict: "yes"; readonly binding: Binding; readonly uid: number; readonly grant: string | null }
  | { readonly verdict: "no"; readonly uid: number; readonly reason: string | null }
  | { readonly verdict: "changed" | "full" };
type End = "taken" | "timeout" | "gone";

/** What the daemon lends. */
export type Attendant = {
  readonly approve: (asked: object) => Promise<Verdict>;
  readonly over: (id: string, end: End) => Promise<void>;
};

export class Asking {
  readonly #nowMs: () => number;
  readonly #waiting = new Set<string>();
  /** The newest daemon. */
  #attendant: Attendant | undefined;
  #arrival = Promise.withResolvers<void>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** For the daemon, before it attends: the calls about which it will be asked again. */
  get waiting(): string[] {
    return [...this.#waiting];
  }

  /** From now on this daemon is asked, until the signal is aborted. */
  attend(attendant: Attendant, signal: AbortSignal): void {
    this.#attendant = attendant;
    this.#arrival.resolve();
    signal.addEventListener("abort", () => this.#leave(attendant), { once: true });
  }

  /** Waits for a person's answer, its worker's end, or the end of its time. */
  async ask(call: Call): Promise<Decision> {
    const { policy, approvalMs: timeoutMs } = call.of;
    const deadlineMs = call.receivedMs + timeoutMs;
    const over = Promise.withResolvers<"timeout" | "gone">();
    const timer = setTimeout(() => over.resolve("timeout"), deadlineMs - this.#nowMs());
    call.signal.addEventListener("abort", () => over.resolve("gone"));
    if (call.isGivenUp) over.resolve("gone");
    this.#waiting.add(call.id);
    const tool = call.tool!; // by an earlier stage
    const asked = {
      ...{ id: call.id, binding: bindingOf(call, tool), group: call.group, policy_name: policy.name },
      ...{ description: tool.manifest.description, arguments: JSON.stringify(call.args), bytes: call.bytes.length },
    };
    let end: End = "taken";
    try {
      const said = await this.#untilSaid(asked, deadlineMs, over.promise);
      if (typeof said === "object") return decisionOf(said);
      end = said;
      const seconds = timeoutMs / 1000;
      return { refusal: new Refusal("CONFIRMATION_TIMEOUT", `nobody has allowed it within ${seconds} s`) };
    } catch (error) {
      return {
        refusal: new Refusal(
          "AUDIT_BROKEN",
          "what persons say cannot be recorded, so nothing of high risk is carried out",
        ),
        reason: (error as Error).message,
      };
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(call.id);
      this.#attendant?.over(call.id, end).catch(() => undefined); // the next daemon asks what is waited for
    }
  }

  async #untilSaid(
    asked: object,
    deadlineMs: number,
    over: Promise<"timeout" | "gone">,
  ): Promise<Verdict | "timeout" | "gone"> {
    for (;;) {
      const attendant = this.#attendant;
      if (attendant === undefined) {
        const came = await Promise.race([over, this.#arrival.promise]);
        if (came !== undefined) return came;
        continue;
      }
      try {
        return await Promise.race([over, attendant.approve({ ...asked, left_ms: deadlineMs - this.#nowMs() })]);
      } catch (error) {
        if (!(error instanceof IpcError) || error.code !== "CONNECTION_LOST") throw error;
        this.#leave(attendant);
      }
    }
  }

  #leave(attendant: Attendant): void {
    if (this.#attendant !== attendant) return;
    this.#attendant = undefined;
    this.#arrival = Promise.withResolvers();
  }
}

function decisionOf(said: Verdict): Decision {
  switch (said.verdict) {
    case "yes":
      return { approved: sealOf(said.binding), uid: said.uid, grant: said.grant ?? undefined };
    case "no":
      return {
        refusal: new Refusal("CONFIRMATION_DENIED", "a person said no"),
        ...{ uid: said.uid, reason: said.reason ?? undefined },
      };
    case "changed":
      return {
        refusal: new Refusal("CONFIRMATION_DENIED", "the policy has changed since the worker was started"),
      };
    case "full":
      return { refusal: new Refusal("RATE_LIMITED", "too many calls wait for a person", { retryAfter: 1 }) };
  }
}
