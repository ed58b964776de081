#!/bin/sh
# All tests, from nothing: types, lint, format of commands, unit, life, crash, protocol. Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/.." || exit 1
sh scripts/setup.sh || { echo "0 passed, 1 failed"; exit 1; }
bun=node_modules/bun/bin/bun.exe
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0
passed=0
step() {
  echo "── $*"
  if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}
step "$bun" check
step node_modules/.bin/oxlint --type-aware
step "$bun" fmt --check src test bench scripts examples
if command -v shellcheck >/dev/null; then step shellcheck bin/ipcctl scripts/*.sh native/build.sh native/build-python.sh native/build-node.sh .ci/run
else echo "── skipped: shellcheck is not installed"; fi
step sh native/build.sh --sanitize
step env ASAN_OPTIONS=detect_leaks=0 native/build/fuzz 2000
step env ASAN_OPTIONS=detect_leaks=0 native/build/net_fuzz 2000
step python3 -m unittest discover -s test/python
"$bun" --no-env-file test --timeout 60000 test 2>&1 | tee "$log"
add() { sed -n "s/^ *\([0-9][0-9]*\) $1\$/\1/p" "$log" | tail -n 1; }
passed=$((passed + $(add pass || echo 0) + 0))
tests_failed=$(add fail)
[ -n "$tests_failed" ] || tests_failed=1
failed=$((failed + tests_failed))
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
