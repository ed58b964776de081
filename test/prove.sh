#!/bin/sh
# Shows that tests fail without a commit: reverts what it changed outside of test/ in a work tree of its own, and runs them there.
#   sh test/prove.sh COMMIT TEST-FILE…      succeeds if every one of the files fails without the commit, and passes with it
# TEST-FILE: test/….test.ts, or test/python/test_….py. They are taken as they are in HEAD, like all that is in test/.
set -eu
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
  sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,4p' >&2
  exit 2
fi
commit=$(git rev-parse --verify "$1^{commit}")
shift
for file in "$@"; do
  git cat-file -e "HEAD:$file" 2>/dev/null || { echo "$file is not in HEAD" >&2; exit 2; }
done
tree=$(mktemp -d)
patch=$(mktemp)
# shellcheck disable=SC2329 # the trap calls it
end() {
  git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
  rm -f "$patch"
}
trap end EXIT
trap 'exit 143' TERM INT
git worktree add --quiet --detach "$tree" HEAD
git diff --binary "$commit^" "$commit" -- . ':(exclude)test' ':(exclude)*.md' >"$patch"
[ -s "$patch" ] || { echo "$(git log -1 --format='%h %s' "$commit") changes nothing but tests and documents" >&2; exit 2; }
# Installed already, and the same: only what is built differs.
[ ! -d node_modules ] || cp -a node_modules "$tree/node_modules"
for made in build/test-python build/test-node build/test-shellcheck; do
  [ ! -d "$made" ] || { mkdir -p "$tree/build" && cp -a "$made" "$tree/build/"; }
done
run() {
  case $1 in
    *.py) (cd "$tree" && python3 -m unittest discover -s test/python -p "$(basename "$1")") ;;
    *) (cd "$tree" && node_modules/bun/bin/bun.exe --no-env-file test --timeout 600000 "./$1") ;;
  esac >"$tree/prove.log" 2>&1
}
status=0
for state in with without; do
  if [ $state = without ]; then
    (cd "$tree" && git apply --reverse --3way "$patch") || { echo "later commits changed the same lines; revert it by hand" >&2; exit 2; }
  fi
  (cd "$tree" && sh scripts/setup.sh) >"$tree/prove.log" 2>&1 || { cat "$tree/prove.log"; exit 2; }
  for file in "$@"; do
    if run "$file"; then result=passes; else result=fails; fi
    echo "$state: $file $result"
    case $state-$result in
      with-passes) ;;
      without-fails) grep -E '^(\(fail\)|FAIL:|ERROR:)' "$tree/prove.log" | sort -u | sed 's/^/  /' ;;
      *)
        status=1
        tail -n 40 "$tree/prove.log"
        ;;
    esac
  done
done
if [ $status -eq 0 ]; then echo "proved: $(git log -1 --format='%h %s' "$commit")"; else echo "not proved: $(git log -1 --format='%h %s' "$commit")"; fi
exit $status
