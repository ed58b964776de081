#!/bin/sh
# Runs `npm test` in fresh clones with an empty HOME, one after the other, while two hogs per core take what they can
# get.
#   sh test/busy.sh [N] [FOLDER]        N runs (5), logs into FOLDER (build/busy); goes on when the terminal is closed
#   HOGS=0 sh test/busy.sh 1            the same on a machine that is left alone
# Each run's log has its seed; `FOLDER/summary` has a line for each with its duration and load, and one for all of them
# at the end.
set -eu
cd "$(dirname "$0")/.."
runs=${1:-5}
folder=${2:-build/busy}
if [ "${IPCCTL_BUSY:-}" != detached ]; then
  mkdir -p "$folder"
  rm -f "$folder"/*
  IPCCTL_BUSY=detached nohup setsid sh "$0" "$runs" "$(cd "$folder" && pwd)" >"$folder/out" 2>&1 </dev/null &
  echo "$runs runs in the background, process $!; see: tail -f $folder/summary"
  exit 0
fi
work=$(mktemp -d)
chmod 755 "$work" # other users look into it as into any checkout
hogs=
end() {
  for hog in $hogs; do kill "$hog" 2>/dev/null || true; done
  rm -rf "$work"
}
trap end EXIT
trap 'exit 143' TERM INT
hog_count=${HOGS:-$((2 * $(nproc)))}
while [ "$hog_count" -gt 0 ]; do
  sh -c 'while :; do :; done' &
  hogs="$hogs $!"
  hog_count=$((hog_count - 1))
done
good=0
longest=0
run=0
while [ "$run" -lt "$runs" ]; do
  run=$((run + 1))
  mkdir "$work/home"
  git clone --quiet . "$work/clone"
  began=$(date +%s)
  status=0
  loads=
  (cd "$work/clone" && HOME=$work/home npm --silent test) >"$folder/$run.log" 2>&1 &
  test_run=$!
  # The load is looked at all along: what it was at the end says little.
  while kill -0 "$test_run" 2>/dev/null; do
    loads="$loads $(cut -d ' ' -f 1 /proc/loadavg)"
    sleep 5
  done
  wait "$test_run" || status=$?
  took=$(($(date +%s) - began))
  [ "$took" -le "$longest" ] || longest=$took
  [ "$status" -ne 0 ] || good=$((good + 1))
  load=$(echo "$loads" | tr ' ' '\n' | awk 'NF { sum += $1; n++; if ($1 > most) most = $1 } END { printf "load %.1f (at most %.1f)", sum / n, most }')
  echo "run $run: $(tail -n 1 "$folder/$run.log"), status $status, $took s, $load, $(grep -o -m 1 'IPCCTL_SEED=[0-9]*' "$folder/$run.log")" >>"$folder/summary"
  rm -rf "${work:?}/home" "${work:?}/clone"
done
echo "$good of $runs passed, the longest took $longest s" >>"$folder/summary"
[ "$good" -eq "$runs" ]
