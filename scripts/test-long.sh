#!/bin/sh
# What takes too long for every commit: the tests twice more, with CELL_LONG=1 for those that do more
# when they may; every fuzz target for a while; the other platforms; the testnet in containers, where
# docker answers; homes behind NATs, and machines far and near, in network namespaces, as root. Run
# scripts/test.sh first.
#
# usage: scripts/test-long.sh
#
# FUZZ_TIME=30s is for each target. The last line is "N passed, N failed": steps.
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'

long_tests() {
	race_detector
	CELL_LONG=1 CGO_ENABLED=$cgo go test ${race:+"$race"} -count=2 -timeout 60m ./...
}

# fuzz FILE:FUNCTION runs one target. An input that fails it is left in testdata/fuzz beside it.
fuzz() {
	go test -run '^$' -fuzz "^${1##*:}\$" -fuzztime "${FUZZ_TIME:-30s}" "./$(dirname "${1%%:*}")"
}

# targets prints FILE:FUNCTION for each fuzz target of this module.
targets() {
	find . -name '*_test.go' -type f | sed 's#^\./##' | grep -v '^bench/peers/' | sort |
		xargs grep -H '^func Fuzz' | sed 's/^\([^:]*\):func \(Fuzz[A-Za-z0-9_]*\).*/\1:\2/'
}

# platform GOOS GOARCH compiles and vets everything, tests included, for another system.
platform() {
	GOOS=$1 GOARCH=$2 go build ./... && GOOS=$1 GOARCH=$2 go vet ./...
}

[ -n "$(targets)" ] || die 'there are no fuzz targets: this script looks for them in the wrong place'
step 'tests, twice and longer' long_tests
for target in $(targets); do
	step "fuzz ${target##*:} in $(dirname "${target%%:*}")" fuzz "$target"
done
step 'darwin/arm64' platform darwin arm64
step 'linux/arm64' platform linux arm64
step 'linux/arm v7' env GOARM=7 GOOS=linux GOARCH=arm go build ./...
step 'linux/mipsle' env GOMIPS=softfloat GOOS=linux GOARCH=mipsle go build ./...
if command -v docker >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
	step 'testnet in containers' scripts/testnet.sh
else
	echo 'docker does not answer: the testnet in containers is left out.'
fi
if [ "$(id -u)" -eq 0 ] && command -v ip >/dev/null 2>&1 && command -v iptables >/dev/null 2>&1; then
	step 'homes behind NATs' scripts/nat.sh
else
	echo 'This is not root with ip and iptables: the homes behind NATs are left out.'
fi
if [ "$(id -u)" -eq 0 ] && [ -e /dev/net/tun ]; then
	step 'machines far and near' scripts/scenario.sh
else
	echo 'This is not root with /dev/net/tun: the machines far and near are left out.'
fi
step 'a laptop with systemd, emulated' scripts/laptop.sh
tally
