#!/bin/sh
# Removes what was built, and the home of `npm run dev` after its daemon and workers have ended. The installed packages
# stay.
set -eu
cd "$(dirname "$0")/.."
if [ -e build/dev ]; then IPCCTL_HOME=$PWD/build/dev bin/ipcctl daemon stop; fi
rm -rf build native/build bench/out .fuzz
for part in packages/*; do rm -rf "$part/ipcctl-shim" "$part/ipc" "$part/become.so" "$part/plane.node" "$part/python"; done
find . -name node_modules -prune -o -name .git -prune -o \( -name __pycache__ -o -name '*.tmp' \) -prune -exec rm -rf {} +
rm -rf .bun
