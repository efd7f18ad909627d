#!/bin/sh
# What the project is for, with real processes on machines far and near: three callers, 60 ms away from a
# cell, call it 50 times a second each, and get a near copy unasked. Then the original is killed, version 2 is
# published from another machine and rolled out, and the copy is killed and comes back. Every call is counted
# at both ends.
#
# Each machine is a network namespace with a TUN device; internal/celltest/netdelay carries the packets
# between them. Nothing leaves these namespaces, and they are gone with the last process in them.
#
# usage: scripts/scenario.sh
#
# It prints a line for each two seconds, what happened, and the figures beside their goals. It fails if a call
# of a function that may be repeated failed, if one ran twice, or if another version answered than the one
# that was called. Times are printed only: they say as much about this machine ("late" is by how much the
# load itself was behind). Linux, as root.
set -eu
. "$(dirname "$0")/lib.sh"
need go 'see https://go.dev/dl'
[ "$(uname -s)" = Linux ] || die 'network namespaces are a thing of Linux'
[ "$(id -u)" -eq 0 ] || die 'only root may make network namespaces'
[ -e /dev/net/tun ] || die 'there is no /dev/net/tun: modprobe tun'

CELL_SCENARIO=1 exec go test -run '^TestLongScenario$' -count=1 -timeout 20m -v ./internal/celltest
