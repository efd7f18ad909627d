#!/bin/sh
# Measures what giving costs: a stranger that wants everything under the default caps, the owner's own work
# beside it, what is left when it is stopped, the start of a confined program, a nucleus that gives and has
# nothing to do. Prints each figure beside what is promised.
#
# usage: scripts/give.sh [-span 60s] [-only caps,work,start,idle]
#
# Linux, where control groups can be made; best as root, on a machine that does nothing else.
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'
case ${1:-} in
-h | --help)
	sed -n '2,8s/^# \{0,1\}//p' "$root/scripts/give.sh"
	exit
	;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/celld-give.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
scripts/build.sh "$work/bin" >&2
mkdir "$work/stranger" # what it may read, and nothing else
chmod 755 "$work" "$work/stranger"
go build -ldflags '-s -w' -o "$work/stranger/" ./bench/give
"$work/stranger/give" -bin "$work/bin" -work "$work" "$@"
