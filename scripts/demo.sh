#!/bin/sh
# The main job on this machine, with real processes: publish a cell, use it by its CID from elsewhere.
# Everything runs on loopback, in a network and a directory of its own that are gone afterwards.
#
# usage: scripts/demo.sh
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'

work=$(mktemp -d "${TMPDIR:-/tmp}/celld-demo.XXXXXX")
began=$(now_ms)
nuclei='' # directories of the cells that were started, the last one first

# finish stops what runs, by the directories that this script made.
finish() {
	code=$?
	trap - EXIT
	trap '' HUP INT TERM
	if [ "$code" -ne 0 ] && [ "$code" -ne 130 ]; then
		for dir in $nuclei; do
			echo "--- the end of the log of $dir" >&2
			tail -n 15 "$work/$dir/log/nucleus.log" >&2 2>/dev/null || :
		done
	fi
	for dir in $nuclei; do stop_nucleus "$root/bin/cellctl" "$work/$dir"; done
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' HUP INT TERM

say() { printf '\n%s[%5s s] %s%s\n' "$bold" "$(seconds $(($(now_ms) - began)))" "$*" "$plain"; }
fail() { die "${red}FAILED: $*$plain"; }

# run CELLCTL-ARGS... shows a command, and what it prints, which it also leaves in $work/out.
run() {
	printf '    $ cellctl %s\n' "$*"
	before=$(now_ms)
	if cellctl "$@" >"$work/out" 2>"$work/err"; then code=0; else code=$?; fi
	took=$(($(now_ms) - before))
	sed 's/^/      /' "$work/out"
	if [ "$code" -ne 0 ]; then
		sed 's/^/      /' "$work/err" >&2
		fail "cellctl $1 ended with exit code $code"
	fi
}

# start DIR starts the nucleus of a cell.
start() {
	nuclei="$1 $nuclei"
	run start "$1"
}

# expect WANT compares the last reply.
expect() {
	got=$(cat "$work/out")
	[ "$got" = "$1" ] || fail "the reply is \"$got\" and should be $1"
	printf '      (right; %d ms with the start of cellctl)\n' "$took"
}

# both_found reports whether a search finds both providers, and through the DHT.
both_found() {
	cellctl find "$cid" --timeout 5s >"$work/found" 2>/dev/null || return 1
	grep -q "^$peer_one  *dht " "$work/found" && grep -q "^$peer_two  *dht " "$work/found"
}

echo "${bold}celld: publish a cell here, use it by its CID from there${plain}"

say 'Building celld, cellctl and the program of examples/calculator.'
scripts/build.sh
mkdir -p "$work/one/bin" "$work/router" "$work/caller"
go build -o "$work/one/bin/calculator" ./examples/calculator
cp examples/calculator/cell.toml "$work/one/"
built=$(now_ms)

# From here on nothing is known but what is in $work, and nothing leaves this machine.
cd "$work"
PATH=$root/bin:$PATH
unset CELL_BOOTSTRAP CELL_LOG
export PATH CELL_NETWORK="demo-$$" CELL_LISTEN=/ip4/127.0.0.1/tcp/0 CELL_MDNS=off CELL_HOME="$work/owner"

say 'A nucleus without a program, as a home router runs it: the first peer of the network.'
printf '[cell]\nname = "router"\n' >router/cell.toml
start router
CELL_BOOTSTRAP=$(cellctl status router | sed -n 's/^address  *//p' | head -n 1)
export CELL_BOOTSTRAP
case $CELL_BOOTSTRAP in
/ip4/127.0.0.1/tcp/*/p2p/*) echo "      bootstrap address: $CELL_BOOTSTRAP" ;;
*) fail "the router's address is \"$CELL_BOOTSTRAP\"" ;;
esac

say 'The first provider: a calculator. It knows the bootstrap address, and is published.'
start one
run publish one
cid=$(sed -n 1p "$work/out")
name=$(sed -n 2p "$work/out")
case $cid in bafy*) ;; *) fail "publish gives \"$cid\", which is no CID" ;; esac
case $name in k51*) ;; *) fail "publish gives \"$name\", which is no IPNS name" ;; esac
peer_one=$(cellctl status one --json | field peer_id)

say 'The second provider: a copy of its directory without keys/host.key. The same cell, another peer.'
mkdir two
for part in one/*; do
	case $part in one/run | one/log) ;; *) cp -R "$part" two/ ;; esac # these are of what runs there
done
rm two/keys/host.key
start two
cellctl status two --json >"$work/out"
peer_two=$(field peer_id <"$work/out")
[ "$peer_two" != "$peer_one" ] || fail 'the copy has the peer ID of the original'
[ "$(field cid <"$work/out")" = "$cid" ] || fail 'the copy does not serve the CID of the original'
echo "      it announces the same CID as peer $peer_two"

say 'The caller: somebody else, who knows the CID and the bootstrap address and nothing more.'
export CELL_HOME="$work/caller"
nuclei="caller $nuclei" # its nucleus is started by the first command
wait_for 20 both_found || fail "the DHT does not give both providers of $cid: $(cat "$work/found")"
run find "$cid"

say 'It races them: adverts, three pings each, the lowest score wins.'
run race "$cid"

say 'It calls add 3 4, by the CID.'
run use "$cid" add 3 4
expect 7
cellctl use "$cid" add 3 4 --json >"$work/out"
served=$(field provider <"$work/out")
case $served in
"$peer_one" | "$peer_two") echo "      once more: $(field took_us <"$work/out") us from the caller's nucleus to the program of $served and back" ;;
*) fail "the provider is said to be \"$served\", which is neither" ;;
esac

say 'The winner of a race is stopped.'
cellctl race "$cid" --json >"$work/out"
won=$(winner <"$work/out")
case $won in
"$peer_one") loser=$peer_two stopped=one ;;
"$peer_two") loser=$peer_one stopped=two ;;
*) fail "no winner in $(cat "$work/out")" ;;
esac
echo "      winner: $won, which is \"$stopped\""
run stop "$stopped"
left=''
for dir in $nuclei; do [ "$dir" = "$stopped" ] || left="$left $dir"; done
nuclei=$left

say 'The caller calls again, and is served by the other.'
run use "$cid" add 30 4
expect 34
cellctl use "$cid" add 1 1 --json >"$work/out"
served=$(field provider <"$work/out")
[ "$served" = "$loser" ] || fail "\"$served\" is said to have answered, but only $loser runs"
echo "      answered by $served"

say 'And by its name, which always leads to the newest version.'
run use "$name" div 1 8
expect 0.125

ended=$(now_ms)
say "Done: $(seconds $((ended - built))) s after the build. Everything is stopped and removed now."
