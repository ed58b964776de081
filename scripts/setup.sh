#!/bin/sh
# Installs what a checkout needs on a machine that has Node with npm and a C compiler: the pinned Bun, the locked
# packages, the shim. Skips what is done already.
set -eu
cd "$(dirname "$0")/.."
bun=
for candidate in node_modules/@oven/bun-linux-*/bin/bun node_modules/bun/bin/bun.exe; do
  if [ -x "$candidate" ] && [ "$("$candidate" --version 2>/dev/null)" = 1.4.5 ]; then
    bun=$candidate
    break
  fi
done
if [ -z "$bun" ]; then
  # Without install scripts: npm brings the package with the binary for this machine, and Bun does the rest.
  boot=$(mktemp -d)
  trap 'rm -rf "$boot"' EXIT
  npm install --loglevel error --no-audit --no-fund --no-package-lock --ignore-scripts --prefix "$boot" bun@1.4.5 >&2
  for bun in "$boot"/node_modules/@oven/bun-linux-*/bin/bun; do "$bun" --version >/dev/null 2>&1 && break; done
fi
# Anew after a change of the lock file too, such as by a pull.
if ! { cmp -s bun.lock node_modules/.installed.lock && [ -x node_modules/bun/bin/bun.exe ]; }; then
  "$bun" install --frozen-lockfile >&2
  cp bun.lock node_modules/.installed.lock
fi
sh native/build.sh >&2
sh native/build-python.sh >/dev/null
sh native/build-node.sh >&2
# One file needs less memory in the daemon than separate modules; a compiled one starts a command faster.
if [ ! -f build/js/main.js ] || [ -n "$(find contract src scripts/build.ts package.json bun.lock -newer build/js/main.js)" ]; then
  node_modules/bun/bin/bun.exe --no-env-file scripts/build.ts
fi
