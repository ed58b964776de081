/**
 * As which user a worker writes what its policy grants, where we are root and it would have a user of its own: as one
 * to whom the folders belong, or seem to belong.
 */
import { existsSync, realpathSync, statSync, type Stats } from "node:fs";
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import type { Policy } from "./policy.ts";
import { probe } from "./probe.ts";

export type Writer = {
  readonly ids: { readonly uid: number; readonly gid: number };
  /** On its mounts the owner's files are the worker's. */
  readonly isMapped: boolean;
  /** The user is somebody, of whom there are other processes. */
  readonly isSomebody: boolean;
};

/** What failed when a mount of this path was to show its files as another's; empty where that can be done. */
export type MapLack = (path: string) => string;

/** File systems differ. */
export function mapLack(path: string): string {
  return probe("--probe-owner", path);
}

/**
 * @param own the user that this run would have
 * @param fixed the one that this worker would have every time, where what it left before is to be its own
 * @param lack undefined where it has no mounts of its own
 * @throws IpcError POLICY_REFUSED if none of the users could write all of it
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
    `policy ${policy.name}: files.write ${path} ${whose}, as whom no worker runs, and cannot be shown to it as its own: ${reason}`,
    { hint: `chown ${fixed} ${closed.map((one) => shellWord(one.path)).join(" ")}` },
  );
}

/** Whether that user, in no other group, may make files there, or write the file. */
function isOpenTo(uid: number, status: Stats): boolean {
  const bits = status.isDirectory() ? 0o3 : 0o2;
  const mode = status.uid === uid ? status.mode >> 6 : status.mode;
  return (mode & bits) === bits;
}
