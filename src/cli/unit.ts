/** `unit`: a systemd unit for this installation. */
import { realpathSync } from "node:fs";
import { join, resolve } from "node:path";
import { projectOfStore, ROOT } from "../base/install.ts";

/**
 * A path of the launcher that the next version keeps: the one it was called by. Package stores have the version in the
 * folder's path, and a link to it; pnpm calls the launcher without that link.
 */
function lastingLauncher(): string {
  const real = realpathSync(join(ROOT, "bin/ipcctl"));
  const { IPCCTL_LAUNCHER: called } = process.env;
  const project = projectOfStore();
  const names = [
    ...(called === undefined || called.includes("/.pnpm/") ? [] : [resolve(called)]),
    ...(project === undefined ? [] : [join(project, "node_modules/ipcctl/bin/ipcctl")]),
  ];
  return names.find((name) => leadsTo(name, real)) ?? real;
}

function leadsTo(name: string, target: string): boolean {
  try {
    return realpathSync(name) === target;
  } catch {
    return false;
  }
}

/** A word as systemd reads it. It refuses names with quotation marks and backslashes, however they are quoted. */
function unitWord(text: string): string {
  const escaped = text.replaceAll("%", "%%");
  return /\s/.test(text) ? `"${escaped}"` : escaped;
}

export function systemdUnit(isUser: boolean): string {
  const binary = unitWord(lastingLauncher());
  return `[Unit]
Description=ipcctl, process manager for Python workers
Documentation=man:ipcctl(1)
After=network.target

[Service]
Type=notify
NotifyAccess=main
Environment=BUN_JSC_useBaselineJIT=0 BUN_JSC_useConcurrentJIT=0
ExecStart=${binary} daemon
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=30
Restart=on-failure
RestartSec=1
# Only the daemon is stopped: workers outlive it, and the next daemon adopts them. To end them: ipcctl daemon stop
KillMode=process
TimeoutStopSec=90
# Groups of its own for workers: trees are killed at once, memory and processor limits hold.
Delegate=yes
OOMPolicy=continue
LimitNOFILE=65536
${
  isUser
    ? ""
    : `RuntimeDirectory=ipcctl
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
StateDirectory=ipcctl
StateDirectoryMode=0700
# Hardening that workers inherit without noticing. Each of them may be confined further by its policy.
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectClock=yes
ProtectHostname=yes
RestrictRealtime=yes
LockPersonality=yes
`
}
[Install]
WantedBy=${isUser ? "default.target" : "multi-user.target"}
`;
}
