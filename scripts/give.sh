#!/bin/sh
# Measures what giving costs: a stranger that wants everything under the default caps, and what is left when it
# is stopped; the owner's own compile beside a stranger's cell that is hosted, and the calls of others when that
# is paused for it; the start of a confined program; a nucleus that gives and has nothing to do. Prints each
# figure beside what is promised, and fails if one is not.
#
# usage: scripts/give.sh [-span 60s] [-rounds 4] [-busy 70%] [-only caps,work,pauses,start,idle]
#        scripts/give.sh -rounds 6 -only apart     the owner's work in four ways, and where the time goes: four minutes
#
# Linux, where control groups can be made; best as root, on a machine that does nothing else. Seven minutes.
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'
case ${1:-} in
-h | --help)
	sed -n '2,10s/^# \{0,1\}//p' "$root/scripts/give.sh"
	exit
	;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/celld-give.XXXXXX")
# What was interrupted leaves daemons. Those that host come first: they would start the hosted ones again.
clean() {
	for dir in "$work"/*/owner/home "$work"/*/owner/foreign/* "$work"/*/*/home "$work"/*/*/hungry "$work"/*/*/caller; do
		if [ -e "$dir/run/pid" ]; then stop_nucleus "$work/bin/cellctl" "$dir"; fi
	done
	rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' HUP INT TERM
scripts/build.sh "$work/bin" >&2
mkdir "$work/stranger" # what it may read, and nothing else
chmod 755 "$work" "$work/stranger"
go build -ldflags '-s -w' -o "$work/stranger/" ./bench/give ./bench/give/hungry
"$work/stranger/give" -bin "$work/bin" -work "$work" "$@"
