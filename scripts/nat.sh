#!/bin/sh
# The main job behind home NATs: providers and a caller, in two homes, each behind a router that
# masquerades, both with the same addresses inside, and no port forwarded. Outside there are two nuclei
# without a program, as on routers with an address of their own; one of them is the bootstrap peer. Each
# machine is a network namespace, the network between them a bridge that leads nowhere else.
#
# It is asserted that the providers learn that they cannot be reached and get relays by themselves, that a
# caller in the other home uses a cell by its CID, that a hole is punched so that the calls become
# direct, that bodies that no relay would carry get through both ways, and that calls are answered through
# the relay where no hole can be punched. For the public network's protocols and for a private network.
#
# usage: scripts/nat.sh [public|private]...   both unless named
#
# Linux, as root, with ip and iptables. Not for every commit: AutoNAT takes its time.
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'
[ "$(id -u)" -eq 0 ] || die 'only root may make network namespaces'
need ip 'install iproute2'
need iptables 'install iptables'

work=$(mktemp -d "${TMPDIR:-/tmp}/celld-nat.XXXXXX")
ns=cn$$ # the names of what is made begin with it
made='' cells='' cid='' digest='' port=4001

finish() {
	code=$?
	trap - EXIT
	trap '' HUP INT TERM
	if [ "$code" -ne 0 ] && [ "$code" -ne 130 ]; then
		for dir in $cells; do
			echo "--- the end of $dir/log/nucleus.log" >&2
			tail -n 15 "$dir/log/nucleus.log" >&2 2>/dev/null || :
		done
	fi
	tear_down
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' HUP INT TERM

# tear_down stops all nuclei and removes all namespaces, whatever was made of them.
tear_down() {
	for dir in $cells; do stop_nucleus "$work/bin/cellctl" "$dir"; done
	for n in $made; do ip netns del "$n" 2>/dev/null || :; done
	cells='' made=''
}

# machine NAME makes a namespace with loopback.
machine() {
	ip netns add "$ns-$1" || return 1
	made="$made $ns-$1"
	ip -n "$ns-$1" link set lo up
}

# in_ns NAME COMMAND... runs there.
in_ns() {
	machine_name=$ns-$1
	shift
	ip netns exec "$machine_name" "$@"
}

# cable A B ADDRESS-OF-A [ADDRESS-OF-B] connects two machines; without an address B's end joins its bridge.
cable() {
	ip link add "to-$2" netns "$ns-$1" type veth peer name "to-$1" netns "$ns-$2" || return 1
	ip -n "$ns-$1" addr add "$3" dev "to-$2" || return 1
	if [ -n "${4:-}" ]; then
		ip -n "$ns-$2" addr add "$4" dev "to-$1" || return 1
	else
		ip -n "$ns-$2" link set "to-$1" master bridge || return 1
	fi
	ip -n "$ns-$1" link set "to-$2" up && ip -n "$ns-$2" link set "to-$1" up
}

# home NAME ADDRESS makes a router with that address outside, and a machine behind it.
home() {
	machine "router$1" && machine "$1" || return 1
	cable "router$1" wan "$2/8" || return 1
	cable "$1" "router$1" 192.168.1.2/24 192.168.1.1/24 || return 1
	ip -n "$ns-$1" route add default via 192.168.1.1 || return 1
	in_ns "router$1" sysctl -qw net.ipv4.ip_forward=1 || return 1
	in_ns "router$1" iptables -t nat -A POSTROUTING -o to-wan -j MASQUERADE || return 1
	# As home routers do: what nobody inside has asked for is dropped without a word.
	in_ns "router$1" iptables -A INPUT -i to-wan -m conntrack --ctstate NEW -j DROP || return 1
	in_ns "router$1" iptables -P FORWARD DROP || return 1
	in_ns "router$1" iptables -A FORWARD -i "to-$1" -j ACCEPT || return 1
	in_ns "router$1" iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
}

# The addresses are of the kind that libp2p takes for public ones; they exist within the namespaces only.
networks() {
	machine wan || return 1
	ip -n "$ns-wan" link add bridge type bridge && ip -n "$ns-wan" link set bridge up || return 1
	machine boot && cable boot wan 11.10.0.1/8 || return 1
	machine second && cable second wan 11.20.0.1/8 || return 1
	home alice 11.30.0.1 && home bob 11.40.0.1
}

# cellctl MACHINE ARGS... runs on a machine.
cellctl() {
	on=$1
	shift
	in_ns "$on" env -u CELL_LOG CELL_HOME="$work/$on/home" CELL_NETWORK="$network" CELL_MDNS=off CELL_BOOTSTRAP="$(cat "$work/bootstrap")" \
		CELL_LISTEN="/ip4/0.0.0.0/udp/$port/quic-v1,/ip4/0.0.0.0/tcp/$port" "$work/bin/cellctl" "$@"
}

# start MACHINE DIR
start() {
	cells="$cells $work/$2"
	cellctl "$1" start "$work/$2"
}

outside() {
	: >"$work/bootstrap"
	for m in boot second; do
		mkdir -p "$work/$m"
		printf '[cell]\nname = "router"\n' >"$work/$m/cell.toml"
	done
	start boot boot || return 1
	cellctl boot status "$work/boot" | sed -n 's/^address  *\(.*11\.10\.0\.1.*\)/\1/p' >"$work/addresses"
	paste -sd, "$work/addresses" >"$work/bootstrap"
	[ -s "$work/bootstrap" ] || return 1
	start second second || return 1
	cat "$work/bootstrap"
}

# publish NAME starts an example in alice's home and prints its CID.
publish() {
	mkdir -p "$work/alice/$1/bin"
	cp "examples/$1/cell.toml" "$work/alice/$1/"
	cp "$work/bin/$1" "$work/alice/$1/bin/"
	cellctl alice start "$work/alice/$1" >&2 || return 1
	cellctl alice publish --json "$work/alice/$1" >"$work/published" || return 1
	field cid <"$work/published"
}

providers() {
	cells="$cells $work/alice/calculator $work/alice/digest"
	cid=$(publish calculator) || return 1
	port=4002
	digest=$(publish digest) || return 1
	port=4001
	[ -n "$cid" ] && [ -n "$digest" ] || return 1
	echo "published as $cid and $digest"
}

# relayed reports whether the providers tell others that they are reached through a relay.
relayed() {
	cellctl alice status "$work/alice/digest" | grep -q '^address .*/p2p-circuit' &&
		cellctl alice status "$work/alice/calculator" | grep '^address .*/p2p-circuit'
}

has_relay() {
	wait_for 180 relayed || return 1
	cellctl alice doctor "$work/alice/calculator" | grep reachable || :
}

# bytes_between prints how much of bob's has come to alice's router from his, relays left aside.
bytes_between() {
	in_ns routeralice iptables -t mangle -nvxL PREROUTING | awk '/11\.40\.0\.1/ { print $2 }'
}

watch_between() {
	in_ns routeralice iptables -t mangle -A PREROUTING -i to-wan -s 11.40.0.1
}

# use ARGS... calls from the other home.
use() {
	cellctl bob use "$@" --timeout 60s
}

caller() {
	watch_between || return 1
	mkdir -p "$work/bob"
	cells="$cells $work/bob/home"
	began=$(now_ms)
	reply=$(use "$cid" add 3 4) || return 1
	echo "the first call took $(($(now_ms) - began)) ms, with the start of the nucleus, the search and the race"
	[ "$reply" = 7 ]
}

# body_back is the first call of a nucleus, whose reply no relay would carry.
body_back() {
	cellctl bob stop "$work/bob/home" || return 1
	began=$(now_ms)
	size=$(use "$digest" zeros 1000000 | wc -c) || return 1
	echo "$size bytes in $(($(now_ms) - began)) ms"
	[ "$size" -eq 1000000 ]
}

# digest_of BYTES sends a body of that size through the cell.
digest_of() {
	head -c "$1" /dev/zero >"$work/body"
	use "$digest" sha256 --input "$work/body" >"$work/reply" || return 1
	grep -qF "$(sha256sum <"$work/body" | cut -d' ' -f1)" "$work/reply"
}

# direct reports whether a body from bob reached alice without a relay.
direct() {
	before=$(bytes_between)
	digest_of 1000000 && [ $(($(bytes_between) - before)) -gt 1000000 ]
}

punched() {
	wait_for 60 direct || return 1
	cellctl bob race "$digest" || return 1
	began=$(now_ms)
	digest_of 20000000 || return 1
	echo "20 MB from home to home in $(($(now_ms) - began)) ms"
}

no_hole() {
	in_ns routeralice iptables -t raw -A PREROUTING -i to-wan -s 11.40.0.1 -j DROP || return 1
	cellctl bob stop "$work/bob/home" || return 1
	before=$(bytes_between)
	began=$(now_ms)
	reply=$(use "$cid" add 30 4) || return 1
	echo "the first call took $(($(now_ms) - began)) ms"
	[ "$reply" = 34 ] && [ "$(bytes_between)" = "$before" ] || return 1
	# A relayed path is penalised with 50 ms.
	cellctl bob race --json "$cid" >"$work/race" || return 1
	cat "$work/race"
	[ "$(field score_us <"$work/race")" -ge 50000 ] || return 1
	# A body that no relay would carry is refused, and not cut off.
	head -c 1000000 /dev/zero >"$work/body"
	if use "$digest" sha256 --input "$work/body" >"$work/reply" 2>"$work/err"; then return 1; fi
	cat "$work/err"
	grep -q relay "$work/err" || return 1
	# A reply is tried with the relay when no hole comes about; this one is small enough.
	[ "$(use "$digest" zeros 1000 | wc -c)" -eq 1000 ]
}

mkdir -p "$work/bin"
scripts/build.sh "$work/bin"
go build -o "$work/bin/" ./examples/calculator ./examples/digest
[ $# -gt 0 ] || set -- public private
for network in "$@"; do
	case $network in
	public | private) ;;
	*) die "\"$network\" is neither public nor private" ;;
	esac
	step "$network: two homes behind NATs, and two machines outside" networks
	step "$network: the nuclei outside start" outside
	step "$network: two providers at home start and publish" providers
	step "$network: they get a relay by themselves" has_relay
	step "$network: a caller in the other home uses one of them" caller
	step "$network: the reply of the first call is a large body" body_back
	step "$network: a hole is punched" punched
	step "$network: where none can be, calls go through the relay" no_hole
	tear_down
	rm -rf "$work/alice" "$work/bob" "$work/boot" "$work/second"
done
tally
