#!/bin/sh
# The skip of needs.ts for scripts: `skip-unless.sh NEED WHAT TEST…` succeeds if `[ TEST… ]` holds. Otherwise it tells
# what is left out and ends with 1, or with 2 where that is a failure.
set -eu
need=$1 what=$2
shift 2
if [ "$@" ]; then exit 0; fi
line="skipped: $what: no $need here"
if [ "${IPCCTL_TEST_REQUIRE:-}" = all ] && ! grep -qxF "$need" "$(dirname "$0")/kernel-features"; then
  echo "$line, and IPCCTL_TEST_REQUIRE=all" >&2
  exit 2
fi
echo "$line"
if [ -n "${IPCCTL_TEST_SKIPPED:-}" ]; then echo "$line" >>"$IPCCTL_TEST_SKIPPED"; fi
exit 1
