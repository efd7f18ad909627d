#!/bin/sh
# A kubo node, the best known IPFS implementation, takes a cell that a nucleus has published: it finds
# the provider, and fetches the manifest, the schema and the artefact. Both run on loopback, with the
# public network's protocols, and know nobody but each other. Not part of the tests: kubo is built
# on the first use, for some minutes. $KUBO names an ipfs that is there already.
#
# usage: scripts/interop-kubo.sh
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'

work=$(mktemp -d "${TMPDIR:-/tmp}/celld-kubo.XXXXXX")
cell=$work/calculator
daemon='' addr='' cid='' peer='' schema='' artefact=''

finish() {
	code=$?
	trap - EXIT
	trap '' HUP INT TERM
	if [ "$code" -ne 0 ] && [ "$code" -ne 130 ]; then
		for log in "$cell/log/nucleus.log" "$work/kubo.log"; do
			echo "--- the end of $log" >&2
			tail -n 15 "$log" >&2 2>/dev/null || :
		done
	fi
	if [ -d "$cell/run" ]; then stop_nucleus "$root/bin/cellctl" "$cell"; fi
	if [ -n "$daemon" ]; then
		kill "$daemon" 2>/dev/null || :
		wait "$daemon" 2>/dev/null || :
	fi
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' HUP INT TERM

ipfs=$(bench/kubo.sh)
scripts/build.sh >/dev/null
mkdir -p "$cell/bin"
cp examples/calculator/cell.toml "$cell/"
go build -o "$cell/bin/calculator" ./examples/calculator

# Neither may reach the internet: no bootstrap peers, no delegated services, loopback only.
export IPFS_PATH="$work/ipfs" IPFS_TELEMETRY=off
export CELL_HOME="$work/home" CELL_NETWORK=public CELL_LISTEN=/ip4/127.0.0.1/tcp/0 CELL_MDNS=off

start_kubo() {
	"$ipfs" init --empty-repo --profile test >/dev/null || return 1
	"$ipfs" bootstrap rm --all >/dev/null || return 1
	for setting in 'Addresses.Swarm ["/ip4/127.0.0.1/tcp/0"]' 'Routing.Type "dht"' 'AutoConf.Enabled false' \
		'DNS.Resolvers {}' 'Routing.DelegatedRouters []' 'Ipns.DelegatedPublishers []'; do
		"$ipfs" config --json "${setting%% *}" "${setting#* }" || return 1
	done
	"$ipfs" daemon >"$work/kubo.log" 2>&1 &
	daemon=$!
	wait_for 30 grep -q 'Daemon is ready' "$work/kubo.log" || return 1
	addr=$("$ipfs" id -f '<addrs>' | sed -n '/127\.0\.0\.1/{p;q;}')
	[ -n "$addr" ] || return 1
	echo "kubo $("$ipfs" version -n) listens on $addr"
}

start_cell() {
	export CELL_BOOTSTRAP="$addr"
	"$root/bin/cellctl" start "$cell" || return 1
	"$root/bin/cellctl" publish --json "$cell" >"$work/published" || return 1
	cid=$(field cid <"$work/published")
	peer=$("$root/bin/cellctl" status --json "$cell" | field peer_id)
	[ -n "$cid" ] && [ -n "$peer" ] || return 1
	echo "peer $peer has published $cid"
}

connected() {
	"$ipfs" swarm peers | grep -F "$peer"
}

# find NAME CID asserts that kubo finds the nucleus as a provider, before kubo has the block and becomes
# one itself.
find() {
	wait_for 60 found "$2" || return 1
	echo "$1 $2 is provided by $peer"
}

found() {
	timeout 20 "$ipfs" routing findprovs "$1" >"$work/providers" 2>/dev/null || return 1
	grep -qxF "$peer" "$work/providers"
}

get_manifest() {
	timeout 30 "$ipfs" dag get "$cid" >"$work/manifest" || return 1
	cat "$work/manifest"
	echo
	name=$("$ipfs" dag get "$cid/body/name") || return 1
	[ "$name" = '"calculator"' ] || return 1
	schema=$("$ipfs" dag resolve "$cid/body/schema") || return 1
	artefact=$("$ipfs" dag resolve "$cid/body/artefacts/0/cid") || return 1
}

find_linked() {
	find schema "$schema" && find artefact "$artefact"
}

get_schema() {
	timeout 30 "$ipfs" block get "$schema" >"$work/schema" || return 1
	cmp "$work/schema" "$cell/cache/schema.json" || return 1
	doc=$("$ipfs" dag get "$cid/body/schema/functions/add/doc") || return 1
	echo "$(wc -c <"$work/schema") bytes; the function add: $doc"
	[ "$doc" = '"Adds two integers."' ]
}

get_artefact() {
	timeout 60 "$ipfs" get --progress=false --output "$work/artefact" "$artefact" || return 1
	cmp "$work/artefact" "$cell/bin/calculator" || return 1
	echo "$(wc -c <"$work/artefact") bytes, the same as bin/calculator"
}

step 'a kubo node starts, without any peer' start_kubo
step 'a nucleus on the public network starts and publishes' start_cell
step 'they are connected' wait_for 20 connected
step 'kubo finds the provider of the manifest: ipfs routing findprovs' find manifest "$cid"
step 'kubo fetches the manifest: ipfs dag get' get_manifest
step 'kubo finds the provider of what it links to: ipfs routing findprovs' find_linked
step 'kubo fetches the schema: ipfs block get, ipfs dag get' get_schema
step 'kubo fetches the artefact: ipfs get' get_artefact
tally
