#!/bin/sh
# Makes the packages to publish, for this machine: sh scripts/pack.sh FOLDER
set -eu
cd "$(dirname "$0")/.."
folder=${1:?the folder that they are put into}
mkdir -p "$folder"
arch=$(node -p process.arch)
npm pack --silent --pack-destination "$folder" .
if [ -d "packages/linux-$arch" ]; then
  npm pack --silent --pack-destination "$folder" "./packages/linux-$arch"
else
  echo "there is no package of compiled parts for $arch" >&2
  exit 1
fi
