#!/bin/sh
# Shows that tests fail without a commit: reverts what it changed outside of test/ in a work tree of its own, and runs them there.
#   sh test/prove.sh COMMIT TEST-FILE…      succeeds if every one of the files fails without the commit, and passes with it
# TEST-FILE: test/….test.ts, or test/python/test_….py; with :WORDS behind it only the tests whose names match. A file that
# cannot even be loaded without the commit proves nothing. Tests and code are those of HEAD. Where later commits changed the same lines, they
# are those of the newest commit at which it can be reverted, and if it has not these tests yet, those of the first one that has; this is said.
set -eu
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
  sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,6p' >&2
  exit 2
fi
commit=$(git rev-parse --verify "$1^{commit}")
shift
tree=$(mktemp -d)
patch=$(mktemp)
# Daemons that the reverted code has left behind run from the work tree, whose path nobody else has.
end_processes() {
  for process in /proc/[0-9]*; do
    if { tr '\0' '\n' <"$process/cmdline"; } 2>/dev/null | grep -qF "$tree/"; then kill -9 "${process#/proc/}" 2>/dev/null || :; fi
  done
}
# shellcheck disable=SC2329 # the trap calls it
end() {
  end_processes
  git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
  rm -f "$patch"
}
trap end EXIT
trap 'exit 143' TERM INT
git diff --binary "$commit^" "$commit" -- . ':(exclude)test' ':(exclude)*.md' >"$patch"
[ -s "$patch" ] || { echo "$(git log -1 --format='%h %s' "$commit") changes nothing but tests and documents" >&2; exit 2; }
git worktree add --quiet --detach "$tree" HEAD
has_tests() {
  at=$1
  shift
  for file in "$@"; do git cat-file -e "$at:${file%%:*}" 2>/dev/null || return 1; done
}
has_tests HEAD "$@" || { echo "HEAD has not all of: $*" >&2; exit 2; }
base=
for candidate in $(git rev-list "$commit..HEAD") "$commit"; do
  if has_tests "$candidate" "$@"; then tests_of=$candidate; fi
  git -C "$tree" read-tree "$candidate"
  if git -C "$tree" apply --cached --reverse --3way "$patch" >/dev/null 2>&1; then
    base=$candidate
    break
  fi
done
[ -n "$base" ] || { echo "it cannot be reverted even where it stands" >&2; exit 2; }
git -C "$tree" reset --quiet --hard HEAD # what later commits added is known again, and goes
git -C "$tree" checkout --quiet --detach "$base"
echo "at: $(git log -1 --format='%h %s' "$base") ($(git rev-list --count "$base..HEAD") commits before HEAD)"
if [ "$tests_of" != "$base" ]; then
  git -C "$tree" checkout --quiet "$tests_of" -- test
  echo "tests of: $(git log -1 --format='%h %s' "$tests_of")"
fi
# Installed already, and the same: only what is built differs.
[ ! -d node_modules ] || cp -a node_modules "$tree/node_modules"
for made in build/test-python build/test-node build/test-shellcheck; do
  [ ! -d "$made" ] || { mkdir -p "$tree/build" && cp -a "$made" "$tree/build/"; }
done
run() {
  file=${1%%:*}
  words=${1#"$file"}
  words=${words#:}
  case $file in
    *.py) (cd "$tree" && timeout 1200 python3 -m unittest discover -s test/python -p "$(basename "$file")" ${words:+-k "$words"}) ;;
    *) (cd "$tree" && timeout 1200 node_modules/bun/bin/bun.exe --no-env-file test --timeout 600000 "./$file" ${words:+-t "$words"}) ;;
  esac >"$tree/prove.log" 2>&1
}
# A file whose imports are missing says nothing of what the code does.
is_loaded() { grep -qE '^\(fail\)|^(FAIL|ERROR): test' "$tree/prove.log" && ! grep -q '_FailedTest' "$tree/prove.log"; }
status=0
for state in with without; do
  [ $status -eq 0 ] || break
  [ $state = with ] || git -C "$tree" apply --reverse --3way "$patch" 2>/dev/null
  (cd "$tree" && sh scripts/setup.sh) >"$tree/prove.log" 2>&1 || { cat "$tree/prove.log"; echo "$state: the build fails" >&2; exit 2; }
  for tests in "$@"; do
    code=0
    run "$tests" || code=$?
    end_processes
    case $code in 0) result=passes ;; 124) result=hangs ;; *) if is_loaded; then result=fails; else result='does not run'; fi ;; esac
    echo "$state: $tests $result"
    case $state-$result in
      with-passes) ;;
      without-fails | without-hangs) grep -E '^(\(fail\)|FAIL:|ERROR:|error:)' "$tree/prove.log" | sort -u | head -n 20 | sed 's/^/  /' ;;
      *)
        status=1
        tail -n 40 "$tree/prove.log"
        ;;
    esac
  done
done
if [ $status -eq 0 ]; then echo "proved: $(git log -1 --format='%h %s' "$commit")"; else echo "not proved: $(git log -1 --format='%h %s' "$commit")"; fi
exit $status
