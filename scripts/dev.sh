#!/bin/sh
# Serves from the sources in the foreground, with a home of its own. Daemon and workers start again whenever a source
# changes; Ctrl-C ends both.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
IPCCTL_HOME=${IPCCTL_HOME:-$PWD/build/dev}
export IPCCTL_HOME
echo "commands for this daemon: export IPCCTL_HOME=$IPCCTL_HOME, then bin/ipcctl" >&2
exec node_modules/bun/bin/bun.exe --no-env-file --watch --no-clear-screen src/main.ts daemon --stop-workers
