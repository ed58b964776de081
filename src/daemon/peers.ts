/** Who may control the daemon: its own user and root, but no process inside a worker's tree. */
import { IpcError } from "../base/errors.ts";
import { peerCredentials } from "../base/libc.ts";
import { ancestorsOf, isConfined, readProcess } from "../shim/proc.ts";

/** Identifies the trees of our workers. */
export type Trees = {
  /** Pids of workers' processes and their shims at this moment. */
  readonly pids: () => ReadonlySet<number>;
  /** True if the process is in the cgroup of one of our workers. */
  readonly isInGroup: (pid: number) => boolean;
};

/** The peer's credentials. @throws IpcError NO_PERMISSION with the reason for a refusal */
export function requirePermitted(fd: number, ownUid: number, trees: Trees): { uid: number; pid: number } {
  const peer = peerCredentials(fd);
  if (!peer) throw new IpcError("NO_PERMISSION", "the peer went away before it could be identified");
  if (peer.uid !== ownUid && peer.uid !== 0) {
    throw new IpcError("NO_PERMISSION", `user ${peer.uid} may not control the daemon of user ${ownUid}`);
  }
  if (peer.pid === 0)
    throw new IpcError(
      "NO_PERMISSION",
      "the client comes from another PID namespace, so it cannot be told apart from a worker",
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

/** How often to start over if an ancestor ends during the look. */
const LOOKS = 3;

/**
 * The peer and its ancestors. A process that entered our PID namespace from outside (docker exec, kubectl exec, a
 * health check) has the parent 0 and is a chain by itself. If an ancestor ends meanwhile the look starts over, because
 * a broken chain proves nothing.
 */
function wholeChain(pid: number): number[] {
  for (let look = 0; look < LOOKS; look++) {
    const chain = ancestorsOf(pid);
    if (readProcess(chain.at(-1)!)?.parent === 0) return chain;
  }
  throw new IpcError("NO_PERMISSION", "the peer went away before it could be identified");
}
