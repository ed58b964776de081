/** The verbs of approvals: what waits for a person, shown as a person must see it, and what a person says to it. */
import { limit } from "../base/limits.ts";
import type { Approvals, Grant, Pending } from "../desk/approvals.ts";
import { pagesOf, renderField, renderText, renderValue } from "../desk/render.ts";
import type { ApprovalStatus, GrantStatus } from "../protocol/approval-answers.ts";
import { data, success } from "../protocol/responses.ts";
import type { Tag } from "../protocol/verbs.ts";
import type { VerbTable } from "./verb-table.ts";

type ApprovalDeps = { readonly approvals: Approvals };

type Asked = { readonly uid: number };
export type ApprovalTag = Extract<Tag, `${string}Approval` | "ListApprovals" | "ListGrants" | "RevokeGrant">;

export const APPROVAL_HANDLERS: VerbTable<ApprovalTag, ApprovalDeps, Asked> = {
  ListApprovals: (_, { approvals }) => data(approvals.list().map(statusOf)),
  ShowApproval: ({ id, page }, { approvals }) => {
    const pending = approvals.get(id);
    const pages = pagesShown(pending);
    return data({ approval: statusOf(pending), page, pages: pages.length, lines: pages[page] ?? [] });
  },
  DecideApproval: async ({ id, choice, hash, reason }, { approvals }, { uid }) => {
    await approvals.decide(id, choice, uid, hash, reason);
    return success(`${choice === "deny" ? "Denied" : "Allowed"} ${id}`);
  },
  ListGrants: (_, { approvals }) => data(approvals.grants().map(describeGrant)),
  RevokeGrant: ({ id }, { approvals }, { uid }) => {
    approvals.revoke(id, uid);
    return success(`Took back ${id}`);
  },
};

/** Each of a hundred pages would be made anew for each of them. */
let shown: { readonly id: string; readonly sha256: string; readonly pages: string[][] } | undefined;

function pagesShown(pending: Pending): string[][] {
  const sha256 = pending.binding.request;
  if (shown?.id !== pending.id || shown.sha256 !== sha256)
    shown = { id: pending.id, sha256, pages: pagesOf(linesOf(pending)) };
  return shown.pages;
}

function linesOf({ binding, group, policy_name, description, bytes, arguments: args }: Pending): string[] {
  return [
    ...renderField("worker", binding.worker),
    ...renderField("run", binding.session, `, group ${renderText(group)}`),
    ...renderField("policy", policy_name),
    ...renderField("tool", binding.tool),
    ...renderField("described as", description),
    "arguments:",
    ...renderValue(JSON.parse(args)),
    `length: ${bytes} bytes`,
    `SHA-256: ${binding.request}`,
  ];
}

function statusOf({ id, binding, group, policy_name, bytes, askedMs, expiresMs }: Pending): ApprovalStatus {
  return {
    ...{ id, worker: binding.worker, session: binding.session, group, tool: binding.tool, policy: policy_name },
    ...{ asked_at: new Date(askedMs).toISOString(), expires_at: new Date(expiresMs).toISOString() },
    ...{ bytes, sha256: binding.request },
  };
}

function describeGrant({ id, worker, session, tool, grantedMs, uid, uses, arguments: args }: Grant): GrantStatus {
  const pages = pagesOf(renderValue(JSON.parse(args)), limit("approvalPageBytes") / limit("approvalGrants"));
  return {
    ...{ id, worker, session, tool, granted_at: new Date(grantedMs).toISOString(), uid, uses },
    ...{ lines: pages[0]!, whole: pages.length === 1 },
  };
}
