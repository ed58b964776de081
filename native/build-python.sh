#!/bin/sh
# Builds native/build/python/_ipcctl.abi3.so, the stable-ABI extension for Python 3.11 and later.
#   sh native/build-python.sh [PYTHON]              for the headers of that python3
#   sh native/build-python.sh --sanitize [PYTHON]   with AddressSanitizer and UBSan, in native/build/python-asan
# Ends well with a remark where there are no headers: the pure Python implementation then does the work.
# shellcheck disable=SC2086 # cc and flags are lists of words
set -eu
cc=${CC:-cc}
flags="-std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fPIC -fvisibility=hidden -shared"
name=python
optimise="-O2"
if [ "${1:-}" = --sanitize ]; then
  shift
  name="python-asan"
  optimise="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
fi
python=${1:-python3}
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null) || include=
cd "$(dirname "$0")"
if [ -z "$include" ] || [ ! -f "$include/Python.h" ]; then
  echo "no Python.h for $python: ipcctl's Python side stays pure Python"
  exit 0
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "$python is older than 3.11: ipcctl's Python side stays pure Python"
  exit 0
fi
if ! command -v ${cc%% *} >/dev/null; then
  echo "no C compiler: ipcctl's Python side stays pure Python"
  exit 0
fi
mkdir -p build/$name
out=build/$name/_ipcctl.abi3.so
# Built beside and moved: a process that has it mapped keeps its file.
$cc $flags $optimise -I"$include" -o $out.tmp python/*.c ring/*.c
mv -f $out.tmp $out
echo "native/$out"
