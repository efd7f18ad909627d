#!/bin/sh
# Runs what README.md tells a newcomer to paste: the sh blocks of "A first cell in five minutes", and
# those of "Writing a cell" that make one and that patch one, in order, in one shell, with the binaries of bin/ in the PATH; and checks that what
# the text promises is what comes. All of it stays on this machine, and needs nothing that is not in the
# clone: Go may fetch nothing.
#
# usage: scripts/readme.sh
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'
[ -x bin/cellctl ] && [ -x bin/celld ] || die 'bin/ has no cellctl and celld; run scripts/build.sh first'

work=$(mktemp -d "${TMPDIR:-/tmp}/celld-readme.XXXXXX")

# finish stops what runs, by the directories below this script's own.
finish() {
	code=$?
	trap - EXIT
	trap '' HUP INT TERM
	for pid in "$work"/first-cells/*/run/pid; do
		if [ -e "$pid" ]; then stop_nucleus "$root/bin/cellctl" "${pid%/run/pid}"; fi
	done
	chmod -R u+w "$work" 2>/dev/null || :
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' HUP INT TERM

# blocks TITLE [BEGINNING] prints the sh blocks of a section, those that begin so, each with a line in
# front that says where it is.
blocks() {
	awk -v title="## $1" -v beginning="${2:-}" '
		/^## / { inside = $0 == title }
		!inside { next }
		$0 == "```sh" { first = 1; next }
		/^```/ { first = block = 0; next }
		first {
			first = 0
			block = index($0, beginning) == 1
			if (block) print "echo \"## README.md line " NR "\""
		}
		block { print }
	' README.md
}

{
	echo 'set -eu'
	blocks 'A first cell in five minutes'
	blocks 'Writing a cell' 'cellctl init '
	blocks 'Writing a cell' 'cellctl patch key '
	blocks 'Writing a cell' 'sed '
} >"$work/script"
grep -q '^cellctl publish' "$work/script" || die 'README.md has no blocks that publish a cell'
if ! command -v python3 >/dev/null 2>&1; then
	echo 'There is no python3: its cell is left out.'
	sed -i.bak '/hello-py/d' "$work/script"
fi

GOCACHE=$(go env GOCACHE)
export GOCACHE GOPROXY=off GOTOOLCHAIN=local GOMODCACHE="$work/no-modules" HOME="$work" NO_COLOR=1 PATH="$root/bin:$PATH"
unset CELL_HOME CELL_NETWORK CELL_BOOTSTRAP CELL_LISTEN CELL_MDNS XDG_DATA_HOME
if ! sh "$work/script" >"$work/out" 2>"$work/err" </dev/null; then
	cat "$work/out" "$work/err" >&2
	die 'what README.md says does not work'
fi
cat "$work/out"

# expect COUNT PATTERN WHAT compares how many lines of the output match.
expect() {
	count=$(grep -c -- "$2" "$work/out" || :)
	[ "$count" -eq "$1" ] || {
		cat "$work/err" >&2
		die "README.md promises $3: $count lines match '$2', not $1"
	}
}

# What the text itself names, in quotes, has to come.
sed -n '/^## A first cell/,/^## /p' README.md | grep -o '`"[^`]*"`' | tr -d '`' | sort -u >"$work/named"
[ -s "$work/named" ] || die 'README.md names no answer any more'
while read -r answer; do
	grep -qxF -- "$answer" "$work/out" || die "README.md promises the answer $answer, which did not come"
done <"$work/named"

languages=$(grep -c 'cellctl init --lang' "$work/script" || :)
expect $((3 + languages)) '^"Hello, World!"$' 'that the cell greets the world'
expect 3 '^"Hello, Ann!"$' 'that the cell greets Ann, by position and by the names under [deps]'
expect 1 '^bafyrei[a-z0-9]*$' 'that publish prints the CID'
expect 1 '^k51[a-z0-9]*$' 'that publish prints the name'
expect 1 '^{"reply":"Hello, World!","provider":"12D3Koo.*","source":"dht","took_us":[0-9]*,' 'that --json says who answered and how it was found'
expect 1 '^12D3Koo[^ ]*  dht  */ip4/127' 'that find lists the provider'
expect 1 '^12D3Koo.* winner$' 'that race compares the providers'
expect 1 '^  greet name:string -> string' 'that schema says what the cell can do'
expect 1 '^ipns  *k51' 'that status shows the name'
expect 1 '^hello restarted ' 'that a cell is told once whom it trusts'
expect 1 '^fix.patch  *applied' 'that a patch is applied'
expect 1 '^"Welcome, World!"$' 'that the patched cell welcomes the world'
expect $((4 + languages)) '^stopped$' 'that stop stops'
if grep -q '^WRONG' "$work/out"; then die 'doctor finds something wrong'; fi
# Each cell's nucleus asks the home cell for its account, which is started for that and retires when nobody asks any more.
stop_nucleus "$root/bin/cellctl" "$work/first-cells/home"
for pid in "$work"/first-cells/*/run/pid; do
	[ ! -e "$pid" ] || die "a nucleus was left running in ${pid%/run/pid}"
done
echo "README.md does what it says: $(grep -c '^## README' "$work/out") blocks"
