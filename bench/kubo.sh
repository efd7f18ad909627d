#!/bin/sh
# Prints the path of kubo's ipfs, for the benchmarks and the interoperation test only. It is built on
# the first use, outside the repository; that takes some minutes. $KUBO names one that is there already.
set -eu
version=v0.43.0
if [ -n "${KUBO:-}" ]; then
	printf '%s\n' "$KUBO"
	exit
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/celld-bench
ipfs=$cache/kubo-$version/ipfs
if [ ! -x "$ipfs" ]; then
	echo "building kubo $version, once, into $cache" >&2
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	# Its own go.mod and go.sum pin everything. "go install" would also ask for the list of all versions.
	mkdir "$work/module"
	cd "$work/module"
	printf 'module none\n\ngo 1.26\n' >go.mod
	dir=$(go mod download -json "github.com/ipfs/kubo@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	cp -R "$dir" "$work/kubo"
	chmod -R u+w "$work/kubo"
	cd "$work/kubo"
	mkdir -p "$(dirname "$ipfs")"
	CGO_ENABLED=0 nice go build -trimpath -buildvcs=false -o "$ipfs.new" ./cmd/ipfs >&2
	mv "$ipfs.new" "$ipfs"
fi
printf '%s\n' "$ipfs"
