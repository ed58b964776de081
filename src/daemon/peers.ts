/** Who may speak to the daemon: its own user and root, but nobody from inside a worker's tree. */
import { IpcError } from "../base/errors.ts";
import { peerCredentials } from "../base/libc.ts";
import { ancestorsOf, isConfined } from "../shim/proc.ts";

/** What identifies the trees of our workers. */
export type Trees = {
  /** Pids of workers' processes and of their shims, now. */
  readonly pids: () => ReadonlySet<number>;
  /** True if the process is in the cgroup of a worker of ours. */
  readonly isInGroup: (pid: number) => boolean;
};

/** @throws IpcError NO_PERMISSION with the reason. */
export function requirePermitted(fd: number, ownUid: number, trees: Trees): void {
  const peer = peerCredentials(fd);
  if (!peer) throw new IpcError("NO_PERMISSION", "the peer went away before it could be identified");
  if (peer.uid !== ownUid && peer.uid !== 0) {
    throw new IpcError("NO_PERMISSION", `user ${peer.uid} may not control the daemon of user ${ownUid}`);
  }
  const chain = ancestorsOf(peer.pid);
  // A parent outside our pid namespace ends the chain at 0; a peer whose own entry is gone cannot be judged.
  const inTree = trees.pids();
  if (chain.length < 2 && peer.pid !== 1)
    throw new IpcError("NO_PERMISSION", "the peer went away before it could be identified");
  if (chain.some((pid) => inTree.has(pid)) || trees.isInGroup(peer.pid) || isConfined(peer.pid)) {
    throw new IpcError("NO_PERMISSION", "a process inside a worker's tree may not control the daemon");
  }
}
