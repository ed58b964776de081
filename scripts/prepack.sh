#!/bin/sh
# Makes the files that only a package has, and checks that they may be published. `npm pack` runs it.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
node_modules/bun/bin/bun.exe --no-env-file scripts/types.ts
node_modules/bun/bin/bun.exe --no-env-file scripts/licenses.ts
if grep -lF "$(pwd)" build/js/*; then
  echo "these files name folders of this machine" >&2
  exit 1
fi
