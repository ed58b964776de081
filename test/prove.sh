#!/bin/sh
# Shows that tests fail without a commit: reverts what it changed outside of test/ in a work tree of its own, and runs
# them there.
#   sh test/prove.sh COMMIT TEST-FILE…      succeeds if every one of the files fails without the commit, and passes
#                                           with it
# TEST-FILE: test/….test.ts, or test/python/test_….py; with :WORDS behind it only the tests whose names match. A file
# that cannot even be loaded without the commit proves nothing; one that takes longer than PROVE_SECONDS (1200) hangs.
# Tests and code are those of HEAD. Where later commits changed the same lines, they are those of the newest commit at
# which it can be reverted, and if it has not these tests yet, those of the first one that has; this is said.
set -eu
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
  sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,7p' >&2
  exit 2
fi
commit=$(git rev-parse --verify "$1^{commit}")
shift
tree=$(mktemp -d)
chmod 755 "$tree" # a worker with a user of its own reads it too
patch=$(mktemp)
# Daemons that the reverted code has left behind run from the work tree, whose path nobody else has.
end_processes() {
  grep -lasF "$tree/" /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ process _; do kill -9 "$process" 2>/dev/null || :; done
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
split() {
  file=${1%%:*}
  words=${1#"$file"}
  words=${words#:}
}
has_tests() {
  at=$1
  shift
  for tests in "$@"; do
    split "$tests"
    git cat-file -e "$at:$file" 2>/dev/null || return 1
    # A name that is put together stands in no file.
    git grep -qF -e "$words" "$at" -- "$file" || ! git grep -qF -e "$words" HEAD -- "$file" || return 1
  done
}
has_tests HEAD "$@" || { echo "HEAD has not all of: $*" >&2; exit 2; }
git worktree add --quiet --detach "$tree" HEAD
# Installed already, and the same: only what is built differs.
[ ! -d node_modules ] || cp -a node_modules "$tree/node_modules"
for made in build/test-python build/test-uv build/test-node build/test-shellcheck; do
  [ ! -d "$made" ] || { mkdir -p "$tree/build" && cp -a "$made" "$tree/build/"; }
done
# At the newest commit where that can be done; only where it stands itself, if $1 says so.
revert() {
  where=$1
  shift
  for base in $(git rev-list "$commit..HEAD") "$commit"; do
    if has_tests "$base" "$@"; then tests_of=$base; fi
    [ "$where" = anywhere ] || [ "$base" = "$commit" ] || continue
    check_out
    if git -C "$tree" apply --reverse --3way "$patch" >/dev/null 2>&1; then return; fi
  done
}
check_out() {
  git -C "$tree" reset --quiet --hard # what the revert brought is known, and goes
  git -C "$tree" checkout --quiet --force --detach "$base"
  [ "$tests_of" = "$base" ] || git -C "$tree" checkout --quiet "$tests_of" -- test
}
build() { (cd "$tree" && sh scripts/setup.sh) >"$tree/prove.log" 2>&1; }
run() {
  split "$1"
  case $file in
    *.py) (cd "$tree" && timeout "${PROVE_SECONDS:-1200}" python3 -m unittest discover -s test/python -p "$(basename "$file")" ${words:+-k "$words"}) ;;
    *) (cd "$tree" && timeout "${PROVE_SECONDS:-1200}" node_modules/bun/bin/bun.exe --no-env-file test --timeout 600000 "./$file" ${words:+-t "$words"}) ;;
  esac >"$tree/prove.log" 2>&1
}
# A file whose imports are missing says nothing of what the code does.
is_loaded() { grep -qE '^\(fail\)|^(FAIL|ERROR): test' "$tree/prove.log" && ! grep -q '_FailedTest' "$tree/prove.log"; }
tell() { echo "$1: $(git log -1 --format='%h %s' "$2")$3"; }

revert anywhere "$@"
# The lines may be there, and no sense in them.
build || { revert there "$@" && build; } || { cat "$tree/prove.log"; tell "not built without" "$commit" "" >&2; exit 2; }
tell at "$base" " ($(git rev-list --count "$base..HEAD") commits before HEAD)"
[ "$tests_of" = "$base" ] || tell "tests of" "$tests_of" ""
for state in without with; do
  [ $state = without ] || { check_out && build; } || { cat "$tree/prove.log"; tell "not built" "$base" "" >&2; exit 2; }
  for tests in "$@"; do
    code=0
    run "$tests" || code=$?
    end_processes
    case $code in
      0) result=passes ;;
      124) result=hangs ;;
      *) if is_loaded; then result=fails; else result='does not run'; fi ;;
    esac
    echo "$state: $tests $result"
    case $state-$result in
      with-passes) ;;
      without-fails | without-hangs) grep -E '^(\(fail\)|FAIL:|[A-Za-z]*(ERROR|[Ee]rror):)' "$tree/prove.log" | sort -u | head -n 20 | sed 's/^/  /' ;;
      *)
        tail -n 40 "$tree/prove.log"
        tell "not proved" "$commit" ""
        exit 1
        ;;
    esac
  done
done
tell proved "$commit" ""
