#!/bin/sh
# Builds native/build/ipcctl-shim with nothing but a C compiler; static where the machine can link so.
#   sh native/build.sh              the shim, and the command ipc
#   sh native/build.sh --sanitize   the same with AddressSanitizer and UBSan, as ipcctl-shim-asan, the fuzzers of its
#                                   parsers, and the network server by itself
# shellcheck disable=SC2086 # cc and flags are lists of words
set -eu
cd "$(dirname "$0")"
mkdir -p build
cc=${CC:-cc}
# By which the shim lets a worker ask the host.
asking="lines/*.c host/*.c ring/ring.c"
flags="-std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -Wconversion -Wno-sign-conversion"
if [ "${1:-}" = --sanitize ]; then
  checked="-g -O1 -fsanitize=address,undefined"
  $cc $flags $checked -fno-omit-frame-pointer -o build/ipcctl-shim-asan shim/*.c net/*.c $asking
  echo "native/build/ipcctl-shim-asan"
  # Leaks are no matter: a shim allocates once and lives as long as its worker.
  checked="$checked -fno-sanitize-recover=all"
  $cc $flags $checked -o build/fuzz fuzz/fuzz.c shim/spec.c shim/log.c shim/record.c shim/proc.c
  echo "native/build/fuzz"
  $cc $flags $checked -o build/net_fuzz fuzz/net_fuzz.c net/dns.c net/rules.c
  echo "native/build/net_fuzz"
  $cc $flags $checked -o build/net_peer_asan fuzz/net_peer.c net/*.c
  echo "native/build/net_peer_asan"
  exit 0
fi
out=build/ipcctl-shim
if [ -x $out ] && [ -z "$(find shim net become ipc host lines ring contract.h build.sh -newer $out)" ]; then
  exit 0
fi
# Built beside and moved: a shim that runs keeps its file.
$cc $flags -O2 -static -o $out.tmp shim/*.c net/*.c $asking 2>build/static.log \
  || $cc $flags -O2 -o $out.tmp shim/*.c net/*.c $asking
$cc $flags -O2 -fPIC -shared -fvisibility=hidden -Wl,--version-script=become/exports -o build/become.so.tmp \
  become/become.c shim/child.c shim/confine.c shim/isolate.c shim/idmap.c \
  shim/spec.c shim/meet.c shim/tree.c shim/record.c shim/proc.c
$cc $flags -O2 -static -o build/ipc.tmp ipc/*.c host/*.c ring/ring.c 2>>build/static.log \
  || $cc $flags -O2 -o build/ipc.tmp ipc/*.c host/*.c ring/ring.c
mv -f build/ipc.tmp build/ipc
mv -f build/become.so.tmp build/become.so
mv -f $out.tmp $out
echo "native/$out"
