#!/bin/sh
# All that every commit has to pass: format, build, vet, staticcheck, the tests with the race detector
# (those of the command line with the real binaries, and the seeds of the fuzz targets, are among
# them), and the demo. What it needs beyond Go and git comes with the Go modules; a C compiler for
# the race detector is installed when it is missing and this is root.
#
# usage: scripts/test.sh
#
# The last line is "N passed, N failed": steps, each of which says how long it took.
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.7.0

formatted() {
	unformatted=$(gofmt -l .) || return 1
	if [ -n "$unformatted" ]; then
		printf 'Run gofmt -w on:\n%s\n' "$unformatted"
		return 1
	fi
}

# build compiles with the flags of lib.sh all that the next steps look at.
build() {
	go build ./... || return 1
	scripts/build.sh
}

tests() {
	race_detector
	other_languages
	CGO_ENABLED=$cgo go test ${race:+"$race"} -vet=off -timeout 15m ./... # vet is a step of its own
}

step 'gofmt' formatted
step 'build' build
step 'vet' go vet ./...
step 'staticcheck' go run "$staticcheck" ./...
step 'tests' tests
step 'README' scripts/readme.sh
step 'demo' scripts/demo.sh
tally
