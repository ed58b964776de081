#!/bin/sh
# Starts the daemon with an example worker and shows it at work.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
bin/ipcctl start examples/loop.py
bin/ipcctl status
echo
echo "its output so far (bin/ipcctl logs -f loop follows it, bin/ipcctl delete loop ends it):"
until [ -n "$(bin/ipcctl logs loop)" ]; do :; done
bin/ipcctl logs loop
