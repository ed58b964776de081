#!/bin/sh
# Fills packages/linux-ARCH with what is compiled for it, before it is packed: sh scripts/pack-parts.sh x64
set -eu
cd "$(dirname "$0")/.."
arch=$1
case $(uname -m) in
  x86_64) here=x64 ;;
  aarch64) here=arm64 ;;
  *) here=$(uname -m) ;;
esac
if [ "$arch" != "$here" ]; then
  echo "the parts for $arch are not built on a machine with $here" >&2
  exit 1
fi
sh scripts/setup.sh
to=packages/linux-$arch
rm -rf "$to/ipcctl-shim" "$to/become.so" "$to/plane.node" "$to/python"
mkdir "$to/python"
for part in ipcctl-shim become.so plane.node python/_ipcctl.abi3.so; do
  if [ ! -f "native/build/$part" ]; then
    echo "native/build/$part is not there: the parts would not be whole (are Python's headers installed?)" >&2
    exit 1
  fi
  strip -o "$to/$part" "native/build/$part"
done
chmod 755 "$to/ipcctl-shim"
# One that needs the C library of this machine would not start on others.
if [ "$(od -An -tx1 "$to/ipcctl-shim" | tr -d ' \n' | grep -c 2f6c6962)" -ne 0 ] && readelf -l "$to/ipcctl-shim" | grep -q INTERP; then
  echo "the shim is not static: install the static C library of the machine" >&2
  exit 1
fi
