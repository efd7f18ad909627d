#!/bin/sh
# Builds celld, cellctl and cellbox for every platform that they are for, packs them, and checks how large
# they are: a router has 16 MB of flash, of which the system takes half.
#
# usage: scripts/build-all.sh [DIR] [PLATFORM...]
#
# DIR is dist/ in the project unless given, PLATFORM one of the names in the first column of what it prints.
# The programs are in DIR/<platform>/, celld and cellctl also packed (.xz). VERSION names the build, else git does.
# As root it installs xz if it is missing.
set -eu
out=${1:-}
first=$out
if [ $# -gt 0 ]; then shift; fi
case $out in '' | /*) ;; *) out=$PWD/$out ;; esac
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'
out=${out:-$root/dist}
wanted=$*
platforms='linux-amd64 linux-arm64 linux-armv7 darwin-arm64 router-amd64 router-arm64 router-armv7 router-mipsle'
for name in $wanted; do
	case " $platforms " in *" $name "*) ;; *) die "there is no platform $name, only $platforms" ;; esac
done
case " $platforms " in *" ${first:-none} "*) die "$first is a platform: give a directory before it" ;; esac
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}

if ! command -v xz >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo 'Installing xz, which packs what is built.'
	{ apt-get update && apt-get install -y --no-install-recommends xz-utils; } >/dev/null || :
fi
need xz 'it is in the package xz-utils'

# Routers have all of these left out. For each a name that is only in programs that have it: the linker may
# keep what nobody calls, and so no list of packages says what is there.
omitted='
celld_omit_transports github.com/pion/webrtc/v4.(*PeerConnection).
celld_omit_leveldb    github.com/syndtr/goleveldb/leveldb.(*DB).
celld_omit_flatfs     github.com/ipfs/go-ds-flatfs.(*Datastore).
celld_omit_mdns       github.com/miekg/dns.(*Msg).
celld_omit_portmap    github.com/huin/goupnp/httpu.(*HTTPUClient).
'
router_tags=$(echo "$omitted" | sed -n 's/^\(celld[^ ]*\) .*/\1/p' | paste -s -d, -)

# limits of a packed celld, for routers and for others, and of a cellbox, in bytes
most_router=9000000
most_full=11000000
most_cellbox=4000000

has() { LC_ALL=C grep -a -q -F "$2" "$1"; }

# check_omitted FILE KIND looks for each of the names: in a router's celld there is none, in others all are.
check_omitted() {
	echo "$omitted" | while read -r tag name; do
		[ -n "$tag" ] || continue
		if [ "$2" = router ]; then
			if has "$1" "$name"; then die "$1: built with $tag, and yet there is $name"; fi
		else
			has "$1" "$name" || die "$1: there is no $name, by which $tag is checked: choose another name"
		fi
	done
}

size() { wc -c <"$1" | tr -d ' '; }

at_most() {
	if [ "$(size "$1")" -gt "$2" ]; then die "$1 has $(size "$1") bytes, the limit is $2"; fi
}

# build NAME KIND GOOS GOARCH [VARIABLE=VALUE] builds and checks one platform, and prints a line.
build() {
	name=$1 kind=$2 goos=$3 goarch=$4 more=${5:-}
	case " $wanted " in '  ' | *" $name "*) ;; *) return 0 ;; esac
	dir=$out/$name tags=''
	if [ "$kind" = router ]; then tags=$router_tags; fi
	rm -rf "$dir"
	mkdir -p "$dir"
	env GOOS="$goos" GOARCH="$goarch" ${more:+"$more"} \
		go build -tags "$tags" -ldflags "-s -w -X main.version=$version" -o "$dir/" ./cmd/...
	check_omitted "$dir/celld" "$kind"
	at_most "$dir/cellbox" "$most_cellbox"
	for program in celld cellctl; do xz -9 -k -T1 "$dir/$program"; done
	if [ "$kind" = router ]; then at_most "$dir/celld.xz" "$most_router"; else at_most "$dir/celld.xz" "$most_full"; fi
	printf '%-20s %-7s %11s %11s %11s %11s %11s\n' "$name" "$kind" "$(size "$dir/celld")" "$(size "$dir/celld.xz")" \
		"$(size "$dir/cellctl")" "$(size "$dir/cellctl.xz")" "$(size "$dir/cellbox")"
}

printf '%-20s %-7s %11s %11s %11s %11s %11s\n' platform kind celld celld.xz cellctl cellctl.xz cellbox
build linux-amd64 full linux amd64
build linux-arm64 full linux arm64
build linux-armv7 full linux arm GOARM=7
build darwin-arm64 full darwin arm64
build router-amd64 router linux amd64
build router-arm64 router linux arm64
build router-armv7 router linux arm GOARM=7
build router-mipsle router linux mipsle GOMIPS=softfloat
