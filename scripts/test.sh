#!/bin/sh
# Runs all tests in a fresh checkout: types, lint, formats, unit, life, crash, protocol and the others. Ends with "N
# passed, N failed".
#   IPCCTL_SEED=N             repeats the random tests of the run that printed it
#   IPCCTL_TEST_REQUIRE=all   counts a skip as a failure, unless test/kernel-features lists it
set -u
cd "$(dirname "$0")/.." || exit 1
sh scripts/setup.sh || { echo "0 passed, 1 failed"; exit 1; }
bun=node_modules/bun/bin/bun.exe
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export IPCCTL_TEST_SKIPPED="$out/skipped"
: >"$IPCCTL_TEST_SKIPPED"
: >"$out/failed"
: >"$out/details"
IPCCTL_SEED=${IPCCTL_SEED:-$(($(od -An -N4 -tu4 /dev/urandom) % 2147483648))}
export IPCCTL_SEED
echo "── IPCCTL_SEED=$IPCCTL_SEED"
failed=0
passed=0
step() {
  echo "── $*"
  if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "$*" >>"$out/failed"; fi
}
step "$bun" --no-env-file test/install.ts
step "$bun" check
step node_modules/.bin/oxlint --type-aware
shellcheck=$(command -v shellcheck || echo build/test-shellcheck/bin/shellcheck)
if sh test/skip-unless.sh shellcheck "the shell scripts" -x "$shellcheck"; then
  step "$shellcheck" bin/ipcctl scripts/*.sh native/build.sh native/build-python.sh native/build-node.sh .ci/run test/*.sh
else failed=$((failed + $? - 1)); fi
if sh test/skip-unless.sh mypy "the types of Python" -x build/test-mypy/bin/mypy; then
  step build/test-mypy/bin/mypy --python-executable build/test-mypy/bin/python python/ipcctl python/boot python/run
else failed=$((failed + $? - 1)); fi
if sh test/skip-unless.sh ruff "the format and the lint of Python, and the format of C" -x build/test-format/bin/ruff; then
  step sh scripts/format.sh --check
  step build/test-format/bin/ruff check --quiet .
else
  failed=$((failed + $? - 1))
  step "$bun" fmt --check contract plugins src test bench scripts examples
fi
step sh native/build.sh --sanitize
step env ASAN_OPTIONS=detect_leaks=0 native/build/fuzz 2000 "$IPCCTL_SEED"
step env ASAN_OPTIONS=detect_leaks=0 native/build/net_fuzz 2000 "$IPCCTL_SEED"
# Each file runs in its own process, so one that hangs or crashes does not affect others. The deadlines of the tests are
# far shorter than this one. Three run at a time, because tests mostly wait. Those that need the user `nobody` for
# themselves, whose processes the kernel counts together, run one after the other.
mkdir "$out/queue" "$out/taken"
mkfifo "$out/ended"
echo test/python >"$out/queue/any.100"
number=100
for file in $(find test -name '*.test.ts' | LC_ALL=C sort); do
  number=$((number + 1))
  case $file in
    test/escape/* | test/real/* | test/life/user.test.ts | test/life/supervision.test.ts) echo "$file" >"$out/queue/nobody.$number" ;;
    *) echo "$file" >"$out/queue/any.$number" ;;
  esac
done
of_python() {
  echo "python3 -m unittest discover -s test/python"
  if timeout -k 60 3000 python3 -m unittest discover -s test/python; then echo " 1 pass" && echo " 0 fail"; else
    echo "(fail) python3 -m unittest discover -s test/python" && echo " 1 fail"
  fi
}
lane() {
  for kind in "$@"; do
    for entry in "$out/queue/$kind".*; do
      taken=$out/taken/${entry##*/}
      mv "$entry" "$taken" 2>/dev/null || continue # the other lane has taken it
      read -r file <"$taken"
      began=$(date +%s)
      if [ "$file" = test/python ]; then of_python; else
        timeout -k 60 3000 "$bun" --no-env-file test --timeout 600000 "./$file"
      fi >"$taken.log" 2>&1
      echo "── $file took $(($(date +%s) - began)) s" >>"$taken.log"
      echo "$taken.log $file"
    done
  done
}
{
  lane nobody any &
  lane any &
  lane any &
  wait
} >"$out/ended" &
while read -r log file; do
  echo "── $file"
  cat "$log"
  count() { sed -n "s/^ *\([0-9][0-9]*\) $1\$/\1/p" "$log" | tail -n 1; }
  file_passed=$(count pass)
  file_failed=$(count fail)
  passed=$((passed + ${file_passed:-0}))
  failed=$((failed + ${file_failed:-1}))
  [ "${file_failed:-1}" -eq 0 ] && continue
  { sed -n "s|^(fail) |$file: |p" "$log" | sort -u; [ -n "$file_failed" ] || echo "$file: it did not end"; } >>"$out/failed"
  { echo "── $file again, where it failed"; grep -B 60 '^(fail) ' "$log" | grep -v '^(pass) ' || tail -n 60 "$log"; } >>"$out/details"
done <"$out/ended"
# A log whose beginning is cut off still shows the reason.
cat "$out/details"
echo "── IPCCTL_SEED=$IPCCTL_SEED"
sort -u "$IPCCTL_TEST_SKIPPED"
sed 's/^/failed: /' "$out/failed"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
