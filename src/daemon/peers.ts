/** Who may speak to the daemon: its own user and root, but nobody from inside a worker's tree. */
import { IpcError } from "../base/errors.ts";
import { peerCredentials } from "../base/libc.ts";
import { ancestorsOf, isConfined, readProcess } from "../shim/proc.ts";

/** What identifies the trees of our workers. */
export type Trees = {
  /** Pids of workers' processes and of their shims, now. */
  readonly pids: () => ReadonlySet<number>;
  /** True if the process is in the cgroup of a worker of ours. */
  readonly isInGroup: (pid: number) => boolean;
};

/** Who it is. @throws IpcError NO_PERMISSION with the reason why it may not. */
export function requirePermitted(fd: number, ownUid: number, trees: Trees): { uid: number; pid: number } {
  const peer = peerCredentials(fd);
  if (!peer) throw new IpcError("NO_PERMISSION", "the peer went away before it could be identified");
  if (peer.uid !== ownUid && peer.uid !== 0) {
    throw new IpcError("NO_PERMISSION", `user ${peer.uid} may not control the daemon of user ${ownUid}`);
  }
  if (peer.pid === 0)
    throw new IpcError(
      "NO_PERMISSION",
      "the client comes from another PID namespace: it cannot be told from a worker",
      {
        hint: `run ipcctl where the daemon runs, as with docker exec, kubectl exec or: nsenter -t PID -p -m ipcctl status`,
      },
    );
  const chain = wholeChain(peer.pid);
  const inTree = trees.pids();
  if (chain.some((pid) => inTree.has(pid)) || trees.isInGroup(peer.pid) || isConfined(peer.pid)) {
    throw new IpcError("NO_PERMISSION", "a process inside a worker's tree may not control the daemon");
  }
  return { uid: peer.uid, pid: peer.pid };
}

/** How often an ancestor may end while we look. */
const LOOKS = 3;

/**
 * The peer and its ancestors. One that was put into our PID namespace from outside (docker exec, kubectl exec, a health
 * check) has the parent 0, and is its own chain. Where an ancestor ends meanwhile the look is begun anew: what came to
 * an untimely end proves nothing.
 */
function wholeChain(pid: number): number[] {
  for (let look = 0; look < LOOKS; look++) {
    const chain = ancestorsOf(pid);
    if (readProcess(chain.at(-1)!)?.parent === 0) return chain;
  }
  throw new IpcError("NO_PERMISSION", "the peer went away before it could be identified");
}
