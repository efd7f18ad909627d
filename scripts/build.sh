#!/bin/sh
# Builds the binaries into bin/ (or the directory given), static and stripped.
set -eu
cd "$(dirname "$0")/.."
out=${1:-bin}
mkdir -p "$out"
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$out/" ./cmd/...
