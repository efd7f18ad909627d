#!/usr/bin/env bash
# Makes cmd/cellctl/sdk/vendor.tar.gz: the go.mod and the vendor directory of a cell that uses the
# SDK. cellctl init unpacks it, so that a new cell builds where nothing can be fetched. Run it after
# a change of cellproto, of cellproto/cell, or of what they import; a test of cmd/cellctl says when.
#
# usage: scripts/sdk-archive.sh [FILE]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-$root/cmd/cellctl/sdk/vendor.tar.gz}
case $out in /*) ;; *) out=$PWD/$out ;; esac

# The version that a cell asks for: what a later "go get -u" in the cell starts from.
version=v0.1.0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" # everything below writes here only: go mod tidy must never meet the project's go.mod

# Only what the SDK imports is asked for, at the versions that the project has chosen.
cat > main.go <<'GO'
package main

import _ "github.com/celldnet/celld/cellproto/cell"

func main() {}
GO
sed -n '1,/^go /{s#^module .*#module example.com/name-of-cell#;p}' "$root/go.mod" > go.mod
cat >> go.mod <<MOD

require github.com/celldnet/celld $version

replace github.com/celldnet/celld => $root
MOD
cp "$root/go.sum" go.sum
go=$(command -v go)
run() { env -u GOFLAGS GOWORK=off PWD="$work" "$go" -C "$work" "$@"; }
run mod tidy
run mod vendor

# Of all those files, the ones that some system needs which cells are built on, and the licences.
for platform in linux/{386,amd64,arm,arm64,loong64,mips,mipsle,ppc64le,riscv64,s390x} darwin/{amd64,arm64}; do
	CGO_ENABLED=0 GOOS=${platform%/*} GOARCH=${platform#*/} run list -mod=vendor -deps -f '
		{{- if not .Standard}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}
{{end}}{{range .SFiles}}{{$d}}/{{.}}
{{end}}{{range .HFiles}}{{$d}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}
{{end}}{{end}}' .
done | sed "s#^$work/##" | sort -u > keep
find vendor -type f \( -name 'LICENSE*' -o -name 'NOTICE*' -o -name 'PATENTS*' -o -name 'COPYING*' \) >> keep
echo vendor/modules.txt >> keep
find vendor -type f | grep -vxFf keep | tr '\n' '\0' | xargs -0 rm -f

# Without the replacement: in a cell, the vendor directory alone says where the SDK is.
run mod edit -dropreplace github.com/celldnet/celld
sed -i.bak -e 's#name-of-cell#{{name}}#' go.mod
sed -i.bak -e "s#^\(\# github.com/celldnet/celld $version\) => .*#\1#" \
	-e "/^# github.com\/celldnet\/celld => /d" vendor/modules.txt
rm -f go.mod.bak vendor/modules.txt.bak
if grep -n "$root" go.mod vendor/modules.txt; then
	echo "sdk-archive: a path of this machine is left in the archive" >&2
	exit 1
fi
# go mod vendor copies the licences of the dependencies; the project's own lies above its packages.
if [ -f "$root/LICENSE" ]; then cp "$root/LICENSE" vendor/github.com/celldnet/celld/LICENSE; fi

# The same files give the same bytes.
export LC_ALL=C
find go.mod vendor -type f | sort > files
tar --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=0644 \
	--no-recursion -T files -cf - | gzip -n -9 > archive
mv archive "$out"
echo "$(wc -l < files) files, $(wc -c < "$out") bytes: $out"
