#!/bin/sh
# Formats TypeScript, Python and C. With --check it changes nothing, and fails if it would. It uses the tools of the
# tests (build/test-format, made by: node_modules/bun/bin/bun.exe --no-env-file test/install.ts).
set -eu
cd "$(dirname "$0")/.."
check=
in_place=-i
if [ "${1-}" = --check ]; then
  check=--check
  in_place=
fi
node_modules/bun/bin/bun.exe fmt ${check:+"$check"} contract plugins src test bench scripts examples
build/test-format/bin/ruff format --quiet ${check:+"$check"} .
find native -name '*.[ch]' ! -path '*/build/*' ! -name contract.h \
  -exec build/test-format/bin/clang-format ${in_place:---dry-run --Werror} {} +
