/**
 * Chooses the user id under which a worker writes what its policy grants, if we are root and it would have its own user
 * id: a user who owns the folders, or appears to.
 */
import { existsSync, realpathSync, statSync, type Stats } from "node:fs";
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import type { Policy } from "./policy.ts";
import { probe } from "./probe.ts";

export type Writer = {
  readonly ids: { readonly uid: number; readonly gid: number };
  /** On its mounts the owner's files belong to the worker. */
  readonly isMapped: boolean;
  /** A user with other processes, not one made for this worker. */
  readonly isSomebody: boolean;
};

/** Why a mount of this path cannot show its files under another owner; empty if it can. */
export type MapLack = (path: string) => string;

/** This depends on the file system. */
export function mapLack(path: string): string {
  return probe("--probe-owner", path);
}

/**
 * @param own the user id that this run would have
 * @param fixed the user id that this worker would have every time, if files of earlier runs must belong to it
 * @param lack undefined if it has no mounts of its own
 * @throws IpcError POLICY_REFUSED if none of these users could write everything
 */
export function chooseWriter(policy: Policy, own: number, fixed: number, lack: MapLack | undefined): Writer {
  const its = (uid: number, gid = uid, isSomebody = false): Writer => ({
    ids: { uid, gid },
    isMapped: false,
    isSomebody,
  });
  const granted = policy.files.write
    .filter(({ path }) => path !== "/" && existsSync(path))
    .map(({ path }) => ({ path, status: statSync(path) }));
  if (granted.length === 0) return its(own);
  let reason = "it has no mounts of its own";
  if (lack !== undefined) {
    reason = granted.map(({ path }) => lack(realpathSync(path))).find((one) => one !== "") ?? "";
    if (reason === "") return { ids: { uid: own, gid: own }, isMapped: true, isSomebody: false };
  }
  const closed = granted.filter(({ status }) => !isOpenTo(fixed, status));
  const [first] = closed;
  if (first === undefined) return its(fixed);
  const others = closed.find(({ status }) => status.uid !== first.status.uid);
  if (first.status.uid !== 0 && others === undefined) return its(first.status.uid, first.status.gid, true);
  const roots = closed.find(({ status }) => status.uid === 0);
  const { path } = roots ?? others!;
  const whose = roots ? "belongs to root" : `belongs to another user than ${first.path}`;
  throw new IpcError(
    "POLICY_REFUSED",
    `policy ${policy.name}: files.write ${path} ${whose}: no worker runs as that user, and the files cannot be mapped to its own: ${reason}`,
    { hint: `chown ${fixed} ${closed.map((one) => shellWord(one.path)).join(" ")}` },
  );
}

/** Whether that user, without supplementary groups, may create files in the folder or write the file. */
function isOpenTo(uid: number, status: Stats): boolean {
  const bits = status.isDirectory() ? 0o3 : 0o2;
  const mode = status.uid === uid ? status.mode >> 6 : status.mode;
  return (mode & bits) === bits;
}
