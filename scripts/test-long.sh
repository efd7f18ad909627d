#!/bin/sh
# What takes too long for every commit: the tests with CELL_LONG=1, for those that do more when they may;
# those of one process again; every fuzz target for a while; the other platforms; the testnet in
# containers, where docker answers; homes behind NATs, and machines far and near, in network namespaces,
# as root; what giving takes, likewise. Run scripts/test.sh first.
#
# usage: scripts/test-long.sh [STEP...]
#
# STEP is one of these, in this order unless given otherwise; without any it is all of them:
#   tests      every test once, with the race detector and CELL_LONG=1, but for
#   figures    those that assert how much something costs: without the race detector, one after the other,
#              for a machine that does nothing else
#   again      what runs in the test's own process twice more, in another order each time
#   fuzz       every fuzz target for FUZZ_TIME (15s), FUZZ_LANES (2) of them at a time; a package is
#              compiled once for all of its targets
#   platforms  everything compiled, and vetted, for other systems
#   builds     the binaries for all of them, and whether they are small enough
#   testnet nat scenario give
#
# What a second run shows is what the first one has left in the process (a goroutine, a cache, a variable
# of a package), and what depends on the order of tests. So "again" leaves out the packages whose tests
# start celld and cellctl, where every test has processes and directories of its own, and it leaves out
# CELL_LONG, which has more of the same and figures that hold on a quiet machine.
#
# An input that fails a fuzz target is left in testdata/fuzz beside it. The last line is
# "N passed, N failed": steps, of which each fuzz target is one; those that failed are named before it.
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'

all='tests figures again fuzz platforms builds testnet nat scenario give'
figure_tests='(Figures?|Overhead)$'
for name in "$@"; do
	case " $all " in *" $name "*) ;; *) die "there is no step $name, only $all" ;; esac
done

long_tests() {
	race_detector
	other_languages
	CELL_LONG=1 CGO_ENABLED=$cgo go test ${race:+"$race"} -vet=off -count=1 -timeout 60m -skip "$figure_tests" ./...
}

figures() {
	# shellcheck disable=SC2046 # a list of packages
	step figures env CELL_LONG=1 CGO_ENABLED=0 go test -vet=off -count=1 -p 1 -timeout 30m -v -run "$figure_tests" \
		$(grep -rlE --include='*_test.go' "^func Test.*(Figures?|Overhead)\(" . | xargs -n 1 dirname | sort -u)
}

builds() {
	builds_dir=$(mktemp -d)
	step 'binaries for all platforms' scripts/build-all.sh "$builds_dir"
	rm -rf "$builds_dir"
}

tests_again() {
	race_detector
	# shellcheck disable=SC2046 # a list of packages
	CGO_ENABLED=$cgo go test ${race:+"$race"} -vet=off -count=2 -shuffle=on -timeout 30m \
		$(go list ./... | grep -v -e '/internal/celltest$' -e '/cmd/cellctl$')
}

# targets prints FILE:FUNCTION for each fuzz target of this module.
targets() {
	find . -name '*_test.go' -type f | sed 's#^\./##' | grep -v '^bench/peers/' | sort |
		xargs grep -H '^func Fuzz' | sed 's/^\([^:]*\):func \(Fuzz[A-Za-z0-9_]*\).*/\1:\2/'
}

# test_program DIR prints where the instrumented test program of a package is.
test_program() { echo "$fuzz_dir/$(echo "$1" | tr / +).test"; }

fuzz_programs() {
	code=0
	for dir in $(targets | sed 's#/[^/]*$##' | sort -u); do
		go test -c -vet=off -fuzz . -o "$(test_program "$dir")" "./$dir" || code=1
	done
	return $code
}

# fuzz_lane N runs every target whose number is N, modulo the lanes. What each prints is in a file, and
# one more says that it has passed.
fuzz_lane() {
	number=0
	for target in $(targets); do
		number=$((number + 1))
		[ $((number % lanes)) -eq "$1" ] || continue
		dir=$(dirname "${target%%:*}") name=${target##*:}
		out=$fuzz_dir/$(echo "$dir" | tr / +)+$name
		fuzz_target "$dir" "$name" "$out" || ! out_of_time "$out" || fuzz_target "$dir" "$name" "$out" || :
	done
}

# fuzz_target DIR FUNCTION OUT
fuzz_target() {
	(cd "$1" && "$(test_program "$1")" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "${FUZZ_TIME:-15s}" \
		-test.fuzzcachedir "$fuzz_cache" -test.parallel 1 -test.timeout 10m) >"$3" 2>&1 && : >"$3.ok"
}

# out_of_time OUT says that no input failed: on a busy machine a worker of Go's can be late with its last answer, when the time
# for fuzzing is over, and the target "fails" by that. It is run once more.
out_of_time() {
	grep -q '^ *context deadline exceeded$' "$1" && ! grep -q 'Failing input' "$1"
}

# fuzzed DIR FUNCTION says how a target ended: the last line but "PASS", or all if it failed.
fuzzed() {
	out=$fuzz_dir/$(echo "$1" | tr / +)+$2
	if [ -e "$out.ok" ]; then
		grep '^fuzz: ' "$out" | tail -n 1
		return 0
	fi
	if [ -e "$out" ]; then cat "$out"; else echo 'It was not run.'; fi
	return 1
}

fuzz_all() {
	[ -n "$(targets)" ] || die 'there are no fuzz targets: this script looks for them in the wrong place'
	fuzz_dir=$(mktemp -d) lanes=${FUZZ_LANES:-2} fuzz_cache=$(go env GOCACHE)/fuzz/celld
	trap 'rm -rf "$fuzz_dir"' EXIT
	step 'fuzz: compile' fuzz_programs
	lane=0
	while [ "$lane" -lt "$lanes" ]; do
		fuzz_lane "$lane" &
		lane=$((lane + 1))
	done
	wait
	for target in $(targets); do
		dir=$(dirname "${target%%:*}")
		step "fuzz ${target##*:} in $dir" fuzzed "$dir" "${target##*:}"
	done
}

# platform GOOS GOARCH compiles and vets everything, tests included, for another system.
platform() {
	GOOS=$1 GOARCH=$2 go build ./... && GOOS=$1 GOARCH=$2 go vet ./...
}

platforms() {
	step 'darwin/arm64' platform darwin arm64
	step 'linux/arm64' platform linux arm64
	step 'linux/arm v7' env GOARM=7 GOOS=linux GOARCH=arm go build ./...
	step 'linux/mipsle' env GOMIPS=softfloat GOOS=linux GOARCH=mipsle go build ./...
}

testnet() {
	if command -v docker >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
		step 'testnet in containers' scripts/testnet.sh
	else
		echo 'docker does not answer: the testnet in containers is left out.'
	fi
}

nat() {
	if [ "$(id -u)" -eq 0 ] && command -v ip >/dev/null 2>&1 && command -v iptables >/dev/null 2>&1; then
		step 'homes behind NATs' scripts/nat.sh
	else
		echo 'This is not root with ip and iptables: the homes behind NATs are left out.'
	fi
}

give() {
	if [ "$(id -u)" -eq 0 ] && command -v ip >/dev/null 2>&1; then
		step 'what giving takes' scripts/give.sh
	else
		echo 'This is not root with ip: what giving takes is left out.'
	fi
}

scenario() {
	if [ "$(id -u)" -eq 0 ] && [ -e /dev/net/tun ]; then
		step 'machines far and near' scripts/scenario.sh
	else
		echo 'This is not root with /dev/net/tun: the machines far and near are left out.'
	fi
}

# shellcheck disable=SC2086 # a list of steps
[ $# -gt 0 ] || set -- $all
for name in "$@"; do
	case $name in
	tests) step 'tests, longer' long_tests ;;
	again) step 'tests again' tests_again ;;
	fuzz) fuzz_all ;;
	*) "$name" ;;
	esac
done
tally
