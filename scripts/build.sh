#!/bin/sh
# Builds celld, cellctl and cellbox, static and stripped.
#
# usage: scripts/build.sh [DIR]    DIR is bin/ in the project unless given
#
# GOOS and GOARCH choose another platform; VERSION names the build (else git does).
set -eu
out=${1:-}
case $out in '' | /*) ;; *) out=$PWD/$out ;; esac
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'

out=${out:-$root/bin}
mkdir -p "$out"
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
go build -ldflags "-s -w -X main.version=$version" -o "$out/" ./cmd/...
