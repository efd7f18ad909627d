#!/bin/sh
# Measures celld side by side with its peers and prints a table; docs/benchmarks.md says how.
#
# usage: scripts/bench.sh [--write] [--hour] [--no-kubo] [FLAGS OF THE DRIVER] [SECTION...]
#
# Sections: remote local swap use typed first artefact patch rest. All of them take half an hour. One more, cpu, is
# run only when it is named: the CPU time of a call, for who changes the code.
#   --write    put the table into docs/benchmarks.md
#   --hour     call a nucleus for an hour to see whether it grows, not for five minutes
#   --no-kubo  measure the artefact without kubo, which is built on the first use, for some minutes
# Flags of the driver: -rounds N, -round TIME and -rows PATTERN, for a quick look: -rounds 3 -round 200ms local
# One row of local needs a C compiler, cc, and is left out without one.
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'

kubo=yes
extra=
while [ $# -gt 0 ]; do
	case $1 in
	--write) extra="$extra -write docs/benchmarks.md" ;;
	--hour) extra="$extra -calls 1h" ;;
	--no-kubo) kubo=no ;;
	-h | --help)
		sed -n '2,12s/^# \{0,1\}//p' "$root/scripts/bench.sh"
		exit
		;;
	*) break ;;
	esac
	shift
done

cache=${XDG_CACHE_HOME:-$HOME/.cache}/celld-bench
bin=$cache/bin
scripts/build.sh "$bin" >&2
go build -ldflags '-s -w' -o "$bin/" ./bench/driver ./bench/echo
# Two programs in two builds each, of which a string or two differ.
for build in one two; do
	go build -ldflags "-s -w -X main.build=$build" -o "$bin/echo-$build" ./bench/echo
done
go build -ldflags '-s -w -X main.version=1 -X main.name=one' -o "$bin/large-one" ./bench/large
go build -ldflags '-s -w -X main.version=2 -X main.name=two' -o "$bin/large-two" ./bench/large
(cd bench/peers && go build -ldflags '-s -w' -o "$bin/" . ./hello ./typed)
rm -f "$bin/pingpong" # of an earlier run, with a compiler
if command -v cc >/dev/null; then
	cc -std=c11 -O2 -Wall -o "$bin/pingpong" bench/peers/pingpong/pingpong.c
else
	echo 'bench.sh: no cc: the ping-pong in C is left out' >&2
fi

# Only the artefact has kubo as its peer.
wants_kubo=$kubo
for word in "$@"; do
	case $word in
	artefact) wants_kubo=$kubo && break ;;
	remote | local | swap | use | typed | first | patch | rest | cpu) wants_kubo=no ;;
	esac
done
if [ "$wants_kubo" = yes ]; then extra="$extra -kubo $(bench/kubo.sh)"; fi
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
# shellcheck disable=SC2086 # the words of extra are flags
exec "$bin/driver" -bin "$bin" -commit "$commit" $extra "$@"
