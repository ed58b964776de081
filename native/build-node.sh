#!/bin/sh
# Builds native/build/plane.node, what Node needs to call workers; for any Node from 22 on, without its headers.
# shellcheck disable=SC2086 # cc and flags are lists of words
set -eu
cd "$(dirname "$0")"
mkdir -p build
out=build/plane.node
if [ -f $out ] && [ -z "$(find node ring contract.h build-node.sh -newer $out)" ]; then
  exit 0
fi
${CC:-cc} -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fPIC -fvisibility=hidden -shared -O2 -o $out.tmp \
  node/plane.c ring/cores.c
mv -f $out.tmp $out
echo "native/$out"
