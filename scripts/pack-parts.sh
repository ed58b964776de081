#!/bin/sh
# Copies the compiled parts into packages/linux-ARCH before it is packed: sh scripts/pack-parts.sh x64
set -eu
cd "$(dirname "$0")/.."
arch=$1
here=$(node -p process.arch)
if [ "$arch" != "$here" ]; then
  echo "the parts for $arch are not built on a machine with $here" >&2
  exit 1
fi
sh scripts/setup.sh
to=packages/linux-$arch
rm -rf "$to/ipcctl-shim" "$to/ipc" "$to/become.so" "$to/plane.node" "$to/python"
mkdir "$to/python"
for part in ipcctl-shim ipc become.so plane.node python/_ipcctl.abi3.so; do
  if [ ! -f "native/build/$part" ]; then
    echo "native/build/$part is not there: the parts would not be whole (are Python's headers installed?)" >&2
    exit 1
  fi
  strip -o "$to/$part" "native/build/$part"
done
chmod 755 "$to/ipcctl-shim" "$to/ipc"
# What needs the C library of this machine would not start on others, nor in a worker that does not see it.
for program in ipcctl-shim ipc; do
  if readelf -l "$to/$program" | grep -q INTERP; then
    echo "$program is not static: install the static C library of the machine" >&2
    exit 1
  fi
done
