#!/bin/sh
# The main job across containers: a bootstrap node, three providers and a caller on a network of their
# own. Builds the image from nothing, starts all, uses the cell by its CID, stops the provider that
# answered, uses it again, and removes whatever it made, images included, also when something fails.
#
# usage: scripts/testnet.sh                 test it all and exit with the result
#        scripts/testnet.sh prepare [DIR]   only make the build context, in dist/testnet unless given,
#                                           for docker/compose.yaml by hand
#
# TESTNET_NET=10.1.2 chooses another network, should 10.213.77.0/24 be taken here.
set -eu
named=${2:-}
case $named in '' | /*) ;; *) named=$PWD/$named ;; esac
. "$(dirname "$0")/lib.sh"
[ $# -eq 0 ] || [ "$1" = prepare ] || die 'usage: scripts/testnet.sh [prepare [DIR]]'

need go 'see https://go.dev/dl'
[ "$(go env GOHOSTOS)" = linux ] || die 'a cell is published before it goes into the image: that takes Linux'
export TESTNET_NET="${TESTNET_NET:-10.213.77}"
subnet=$TESTNET_NET.0/24
began=$(now_ms)
work=$(mktemp -d "${TMPDIR:-/tmp}/celld-testnet.XXXXXX")
context=$work/context
project=celldtest$$
compose='' # the command, once there is something to bring down
nuclei=''  # cells that run on this machine, while they are prepared

finish() {
	code=$?
	trap - EXIT
	trap '' HUP INT TERM
	for dir in $nuclei; do
		stop_nucleus "$context/cellctl" "$context/$dir"
	done
	if [ -n "$compose" ]; then
		if [ "$code" -ne 0 ] && [ "$code" -ne 130 ]; then
			up logs --no-color --tail 15 >&2 || :
		fi
		say 'Bringing it down.'
		if ! up down --volumes --remove-orphans --rmi local --timeout 10 >"$work/down" 2>&1; then
			cat "$work/down" >&2
			[ "$code" -ne 0 ] || code=1
		fi
	fi
	rm -rf "$work"
	[ "$code" -ne 0 ] || [ -z "$compose" ] || say "Passed."
	exit "$code"
}
trap finish EXIT
trap 'exit 130' HUP INT TERM

say() { printf '%s[%5s s] %s%s\n' "$bold" "$(seconds $(($(now_ms) - began)))" "$*" "$plain"; }
fail() { die "${red}FAILED: $*$plain"; }

# prepare makes the build context: the binaries, a bootstrap node whose address is known before it
# runs, and a published cell without keys/host.key.
prepare() {
	say 'Building the binaries and the cells.'
	mkdir -p "$context/bootstrap" "$context/calculator/bin" "$context/caller" "$context/home"
	scripts/build.sh "$context"
	go build -ldflags '-s -w' -o "$context/calculator/bin/calculator" ./examples/calculator
	chmod 755 "$context/celld" "$context/cellctl" "$context/cellbox" # whatever the umask: the containers run as nobody
	cp docker/Dockerfile "$context/"
	cp examples/calculator/cell.toml "$context/calculator/"
	printf '[cell]\nname = "bootstrap"\n' >"$context/bootstrap/cell.toml"
	printf '[cell]\nname = "home"\n' >"$context/caller/cell.toml"

	say 'Publishing the cell that the providers will be copies of.'
	nuclei='calculator bootstrap'
	publish >"$work/cid" 2>"$work/err" || fail "the cell cannot be published: $(cat "$work/err")"
	nuclei=''
	cid=$(sed -n 1p "$work/cid")
	TESTNET_BOOTSTRAP=$(cat "$work/bootstrap")
	export TESTNET_BOOTSTRAP
	[ -n "$cid" ] && [ -n "$TESTNET_BOOTSTRAP" ] || fail 'there is no CID or no peer ID'
	# The providers are new peers: what these two learned on this machine is of no use to them.
	rm -rf "$context/calculator/keys/host.key" "$context/calculator/cache/dht" "$context/bootstrap/cache"
	for dir in bootstrap calculator; do rm -rf "${context:?}/$dir/run" "$context/$dir/log"; done
}

# publish prints the CID of the calculator, which it publishes on loopback, with the bootstrap node.
publish() (
	unset CELL_BOOTSTRAP CELL_LOG
	export CELL_NETWORK="testnet-$$" CELL_LISTEN=/ip4/127.0.0.1/tcp/0 CELL_MDNS=off CELL_HOME="$work/owner"
	cd "$context"
	./cellctl start bootstrap >&2 || return 1
	CELL_BOOTSTRAP=$(./cellctl status bootstrap | sed -n 's/^address  *//p' | head -n 1)
	export CELL_BOOTSTRAP
	./cellctl status bootstrap --json | field peer_id >"$work/bootstrap"
	./cellctl publish calculator &&
		./cellctl stop calculator >&2 &&
		./cellctl stop bootstrap >&2
)

# up runs the compose command, whichever there is, for this project.
up() { $compose -p "$project" -f "$root/docker/compose.yaml" "$@"; }

# container SERVICE prints its ID.
container() { up ps -q "$1"; }

# cellctl ARGS... runs in the caller's container.
cellctl() { docker exec "$caller" /cellctl "$@"; }

# run ARGS... shows a command in the caller and what it prints, which it leaves in $work/out.
run() {
	printf '    caller$ cellctl %s\n' "$*"
	if cellctl "$@" >"$work/out" 2>"$work/err"; then code=0; else code=$?; fi
	sed 's/^/      /' "$work/out"
	[ "$code" -eq 0 ] || fail "cellctl $1 ended with exit code $code: $(cat "$work/err")"
}

expect() { [ "$(cat "$work/out")" = "$1" ] || fail "the reply is \"$(cat "$work/out")\" and should be $1"; }

# peer SERVICE asks a nucleus for its peer ID; it fails while the nucleus does not answer.
peer() {
	id=$(docker exec "$(container "$1")" /cellctl status "$2" --json 2>/dev/null | field peer_id)
	[ -n "$id" ] && echo "$id" >"$work/$1.peer"
}

# all_found reports whether a search finds all three providers through the DHT, by addresses of this network.
all_found() {
	cellctl find "$cid" --timeout 5s >"$work/found" 2>/dev/null || return 1
	for p in provider1 provider2 provider3; do
		grep -q "^$(cat "$work/$p.peer")  *dht .*/ip4/$TESTNET_NET\." "$work/found" || return 1
	done
}

if [ "${1:-}" = prepare ]; then
	prepare
	out=${named:-$root/dist/testnet}
	if [ -e "$out" ] && [ ! -e "$out/Dockerfile" ]; then die "$out is there, and is no build context: name another directory"; fi
	rm -rf "$out"
	mkdir -p "$(dirname "$out")"
	cp -R "$context" "$out"
	printf 'TESTNET_CONTEXT=%s\nTESTNET_BOOTSTRAP=%s\nTESTNET_NET=%s\n' "$out" "$TESTNET_BOOTSTRAP" "$TESTNET_NET" >"$out/.env"
	say "The build context is $out. The cell is"
	echo "$cid"
	exit 0
fi

need docker
docker info >/dev/null 2>"$work/err" || die "docker does not answer: $(tail -n 1 "$work/err")"
if docker compose version >/dev/null 2>&1; then
	with='docker compose'
elif command -v docker-compose >/dev/null 2>&1; then
	with=docker-compose
else
	die 'neither docker compose nor docker-compose is installed'
fi
prepare
export TESTNET_CONTEXT="$context"
compose=$with
say "Building the images FROM scratch, with $with."
up build >"$work/build" 2>&1 || fail "the build failed: $(tail -n 20 "$work/build")"
say "Starting five containers on $subnet."
if ! up up -d >"$work/up" 2>&1; then
	if grep -qi overlap "$work/up"; then fail "$subnet is taken here: choose another network with TESTNET_NET=10.1.2"; fi
	fail "they do not start: $(tail -n 20 "$work/up")"
fi
caller=$(container caller)
for p in provider1 provider2 provider3; do
	wait_for 30 peer "$p" /cells/calculator || fail "the nucleus of $p does not answer"
	echo "      $p is peer $(cat "$work/$p.peer")"
done
wait_for 30 peer caller /home/cell || fail 'the nucleus of the caller does not answer'
[ "$(sort -u "$work"/provider?.peer | wc -l)" -eq 3 ] || fail 'two providers have one peer ID'

say 'The caller finds all three through the DHT.'
wait_for 60 all_found || fail "it finds only: $(cat "$work/found")"
run find "$cid"
say 'It races them, and calls the winner.'
run race "$cid"
run use "$cid" add 3 4
expect 7

say 'The winner of a race is stopped.'
cellctl race "$cid" --json >"$work/out" || fail 'the race fails'
won=$(winner <"$work/out")
stopped=''
for p in provider1 provider2 provider3; do
	if [ "$(cat "$work/$p.peer")" = "$won" ]; then stopped=$p; fi
done
[ -n "$stopped" ] || fail "the winner \"$won\" is none of the providers"
echo "      winner: $won, which is $stopped"
up stop --timeout 10 "$stopped" >"$work/stop" 2>&1 || fail "cannot stop it: $(cat "$work/stop")"
code=$(docker inspect -f '{{.State.ExitCode}}' "$(up ps -aq "$stopped")")
[ "$code" = 0 ] || fail "$stopped was told to stop and ended with exit code $code"

say 'The caller calls again, and is served by another.'
run use "$cid" add 30 4
expect 34
cellctl use "$cid" add 1 1 --json >"$work/out" || fail 'the call after that fails'
served=$(field provider <"$work/out")
for p in provider1 provider2 provider3; do
	if [ "$p" != "$stopped" ] && [ "$(cat "$work/$p.peer")" = "$served" ]; then
		echo "      answered by $served, which is $p"
		exit 0
	fi
done
fail "\"$served\" is said to have answered, which is no provider that runs"
