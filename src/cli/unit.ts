/** `unit`: a systemd unit for this installation. */
import { realpathSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../base/install.ts";

export function systemdUnit(isUser: boolean): string {
  const binary = realpathSync(join(ROOT, "bin/ipcctl"));
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
