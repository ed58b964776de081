#!/bin/sh
# Runs jsrun's own tests, as they are, against ipcctl.js: `sh scripts/jsrun-suite.sh CHECKOUT [PYTEST-OPTION…]`, or with
# the checkout in IPCCTL_JSRUN_SOURCE. None of its code is in this project. The last line is `N passed, N failed`.
# Status 0: all that were expected ran and passed; 77: there is no checkout, and nothing ran.
set -eu
# The newest one that is public. No commit after it, and none of its pull requests, has tests of timers.
commit=34b786d2db410cdd264e9c8607ad7cb57e873a64
tests_digest=1ad37b618532d18a9f0ccc3a86781c4c76554a885f93a266e1ebe0308ba056f2
expected=291

source=${1:-${IPCCTL_JSRUN_SOURCE:-}}
if [ "$#" -gt 0 ]; then shift; fi
if [ ! -f "$source/tests/test_runtime.py" ]; then
  cat >&2 <<EOF
jsrun-suite: NOTHING RAN: ${source:-no folder was given, which} is no checkout of jsrun
  git clone https://github.com/imfing/jsrun FOLDER && git -C FOLDER checkout $commit
  sh scripts/jsrun-suite.sh FOLDER
EOF
  exit 77
fi
source=$(cd "$source" && pwd)
cd "$(dirname "$0")/.."
python=$(node_modules/bun/bin/bun.exe --no-env-file -e '
  import { pythonForJsrunSuite } from "./test/packages.ts";
  console.log((await pythonForJsrunSuite()) ?? "");
')
if [ -z "$python" ]; then
  echo "jsrun-suite: NOTHING RAN: pytest cannot be installed" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/jsrun"
printf 'from ipcctl.js import *\nfrom ipcctl.js import __all__\n' >"$work/jsrun/__init__.py"
repository=$PWD
cd "$source"
status=0
PYTHONPATH=$work:$repository/python PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest tests -q -p no:cacheprovider \
  --timeout 120 --junit-xml "$work/result.xml" "$@" || status=1
if [ ! -f "$work/result.xml" ]; then
  echo "jsrun-suite: NOTHING RAN" >&2
  exit 1
fi
number() { sed -n "s/.*<testsuite [^>]*$1=\"\([0-9]*\)\".*/\1/p" "$work/result.xml" | head -1; }
failed=$(($(number errors) + $(number failures)))
passed=$(($(number tests) - failed - $(number skipped)))
if [ "$(LC_ALL=C; export LC_ALL; cat tests/*.py | sha256sum)" != "$tests_digest  -" ]; then
  echo "jsrun-suite: the tests of $source are not those of commit $commit"
elif [ "$passed" -ne "$expected" ]; then
  echo "jsrun-suite: at this commit $expected should have passed"
  status=1
fi
echo "$passed passed, $failed failed"
exit "$status"
