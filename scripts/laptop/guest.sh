#!/bin/sh
# Runs as root on the laptop that scripts/laptop.sh makes up, and prints to its second serial line. A line that begins
# with @ is for the one who made it: what to tell QEMU.
set -u
cd /opt/celld || exit
mkfifo -m 666 /run/ask
export HOME=/root PATH=/opt/celld/bin:/usr/sbin:/usr/bin:/sbin:/bin SANDBOX_BUILT=/opt/celld/tests

# put BYTE VALUE writes to the memory of the clock, which the laptop's ACPI tables read; see acpi.asl.
put() {
	printf "\\$(printf %o "$1")" | dd of=/dev/port bs=1 seek=112 conv=notrunc 2>/dev/null
	printf "\\$(printf %o "$2")" | dd of=/dev/port bs=1 seek=113 conv=notrunc 2>/dev/null
}

# happen has happen what is asked for.
happen() {
	while read -r what arg </run/ask; do
		case $what in
		lid) put 80 "$arg" ;;
		unplugged) put 81 "$arg" ;;
		empty) put 82 "$arg" ;;
		metered)
			net=$(nmcli -t -f DEVICE,TYPE device | sed -n 's/:ethernet$//p' | head -1)
			nmcli connection modify "$(nmcli -g GENERAL.CONNECTION device show "$net")" connection.metered "$arg" &&
				nmcli device reapply "$net" >/dev/null
			;;
		key) echo @key ;;
		plug | unplug) echo "@$what $arg" ;;
		esac
	done
}
for byte in 80 81 82; do put "$byte" 0; done
happen &

echo "== $(uname -r), $(systemctl --version | head -1), $(stat -fc %T /sys/fs/cgroup): $(cat /sys/fs/cgroup/cgroup.controllers)"
for part in caps desktop; do
	echo "== root: $part"
	stranger/give -bin /opt/celld/bin -work "$(mktemp -d)" -ask /run/ask -slow -span 20s -only "$part"
	echo "status of $part: $?"
done
echo '== a user: desktop'
touch /run/ann
while [ ! -e /tmp/ann.status ]; do sleep 1; done
cat /tmp/ann.out
echo "status of desktop: $(cat /tmp/ann.status)"
loginctl list-sessions --no-legend
echo '== tests of the sensors'
modprobe uinput
(cd /opt/celld/tests && ./give.test -test.run '^(TestThisMachine|TestKernelsKeyboard)$' -test.v) 2>&1 | grep -v '^=== '
echo '== tests of the sandbox'
(cd /opt/celld/tests && ./sandbox.test -test.run '^(TestPool.*|TestGroup.*|TestFilterAnswers)$' -test.v) 2>&1 | grep -v '^=== '
echo '== the attacks'
(cd /opt/celld/tests && ./sandbox.test -test.run '^TestMatrix$' -test.v) 2>&1 | grep -v '^=== '
echo '== end'
