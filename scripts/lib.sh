# What the scripts beside this file share. They read it with "." and are in the project's root after
# that. POSIX sh; nothing here prints unless it is called.

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit

# One set of flags for whatever compiles, so that a package is compiled once for all of it (and once
# more for the race detector). What the environment says otherwise would differ from machine to machine.
export CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false'

bold='' plain='' red=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
	bold=$(printf '\033[1m') plain=$(printf '\033[0m') red=$(printf '\033[31m')
fi

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

need() {
	command -v "$1" >/dev/null 2>&1 || die "$1 is needed and is not in the PATH${2:+; $2}"
}

# now_ms prints the time in milliseconds; whole seconds where date knows no better.
now_ms() {
	now=$(date +%s%N)
	case $now in
	*[!0-9]*) echo "$(date +%s)000" ;;
	*) echo "${now%??????}" ;;
	esac
}

# seconds MS prints milliseconds as seconds, with a digit behind the point.
seconds() {
	printf '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100))
}

# wait_for SECONDS COMMAND... runs the command until it succeeds; it fails when it has not by then.
wait_for() {
	deadline=$(($(now_ms) + $1 * 1000))
	shift
	until "$@"; do
		if [ "$(now_ms)" -ge "$deadline" ]; then return 1; fi
		sleep 0.1
	done
}

# stop_nucleus CELLCTL DIR asks a nucleus to stop; one that does not within ten seconds is killed, by
# its own number.
stop_nucleus() {
	# A start that was interrupted just now may not have come to write it yet.
	if [ ! -s "$2/run/pid" ]; then wait_for 1 test -s "$2/run/pid" || return 0; fi
	nucleus_pid=$(cat "$2/run/pid" 2>/dev/null) || return 0
	"$1" stop "$2" --timeout 10s >/dev/null 2>&1 || kill -9 "$nucleus_pid" 2>/dev/null || :
}

# winner reads the rows of "race --json" and prints the peer that won.
winner() {
	tr -d '\n' | tr '{' '\n' | sed -n 's/.*"peer":"\([^"]*\)".*"winner":true.*/\1/p'
}

# field NAME reads an object of --json and prints the value of one of its fields that is no list.
field() {
	tr -d '\n' | sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p'
}

passed=0 failed=0 failures=''

# step NAME COMMAND... runs one step of a test, says how long it took, and goes on when it fails.
# The command's own steps need "|| return 1": a function that is tested does not stop by itself.
step() {
	step_name=$1
	shift
	printf '\n%s== %s%s\n' "$bold" "$step_name" "$plain"
	step_began=$(now_ms)
	if "$@"; then
		passed=$((passed + 1)) step_word=ok
	else
		failed=$((failed + 1)) step_word="${red}FAILED" failures="$failures
  $step_name"
	fi
	printf '%s%s: %s (%s s)%s\n' "$bold" "$step_word" "$step_name" "$(seconds $(($(now_ms) - step_began)))" "$plain"
}

# tally prints the result of all steps, and exits with it.
tally() {
	printf '\n'
	if [ "$failed" -ne 0 ]; then printf 'Failed:%s\n' "$failures"; fi
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ] || exit 1
	exit 0
}

# race_detector prepares "go test -race": it sets race and cgo, or says why it cannot. The detector
# needs a C compiler on most systems; as root it is installed when it is missing.
race_detector() {
	race=-race cgo=1
	case $(go env GOOS)/$(go env GOARCH) in
	linux/amd64 | linux/arm64 | linux/ppc64le | linux/riscv64 | linux/s390x | linux/loong64 | freebsd/amd64) ;;
	darwin/*) return 0 ;; # needs no C compiler
	*)
		race='' cgo=0
		echo 'There is no race detector for this system: the tests run without it.'
		return 0
		;;
	esac
	if have_cc; then return 0; fi
	if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo 'Installing a C compiler, which the race detector needs.'
		{ apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; } >/dev/null || :
	fi
	if ! have_cc; then
		race='' cgo=0
		echo 'There is no C compiler, which the race detector needs: the tests run without it. Install gcc.'
	fi
}

# other_languages prepares the tests of clients that are not in Go, which are left out without it.
other_languages() {
	missing=
	for pair in python3:python3 node:nodejs tsc:node-typescript; do
		if ! command -v "${pair%%:*}" >/dev/null 2>&1; then missing="$missing ${pair#*:}"; fi
	done
	if [ -z "$missing" ]; then return 0; fi
	if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo "Installing$missing, which tests of generated clients need."
		# shellcheck disable=SC2086 # several packages
		{ apt-get update && apt-get install -y --no-install-recommends $missing; } >/dev/null || :
	else
		echo "Without$missing some tests of generated clients are left out."
	fi
}

# have_cc reports whether the C compiler that go uses makes a program.
have_cc() {
	cc_dir=$(mktemp -d) || return 1
	echo 'int main(void) { return 0; }' >"$cc_dir/a.c"
	cc_code=0
	$(go env CC) -o "$cc_dir/a" "$cc_dir/a.c" >/dev/null 2>&1 || cc_code=1
	rm -rf "$cc_dir"
	return $cc_code
}
