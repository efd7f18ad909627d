#!/bin/sh
# Giving on a laptop with systemd: Debian in a machine that QEMU makes up, with a battery, a lid, a screen at which
# somebody is logged in, keyboards, NetworkManager, logind, and control groups of version 2. There it runs the attacks
# of the sandbox's tests in each tier, what a stranger gets who wants everything, and what hosted cells are paused
# for, through the real daemons, for root and for an ordinary user. Prints each figure beside what is promised, and
# fails if one is not.
#
# usage: scripts/laptop.sh [-keep DIR]    DIR keeps the system's files, so that the next run need not fetch them
#
# Linux on amd64, as root, with mmdebstrap, qemu-system-x86, acpica-tools and e2fsprogs; skipped where one is
# missing. A quarter of an hour where the machine has to be emulated, so that times say little there.
set -eu
. "$(dirname "$0")/lib.sh"
case ${1:-} in
-h | --help)
	sed -n '2,11s/^# \{0,1\}//p' "$root/scripts/laptop.sh"
	exit
	;;
esac
skip() {
	echo "laptop.sh: skipped: $*"
	exit
}
need go 'see https://go.dev/dl'
[ "$(uname -sm)" = 'Linux x86_64' ] || skip 'it is made up on Linux, for amd64'
[ "$(id -u)" -eq 0 ] || skip 'only root may lay out its disk'
for tool in mmdebstrap qemu-system-x86_64 iasl mke2fs; do
	command -v $tool >/dev/null || skip "there is no $tool"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/celld-laptop.XXXXXX")
qemu=''
clean() {
	if [ -n "$qemu" ]; then kill "$qemu" 2>/dev/null || :; fi
	rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' HUP INT TERM
chmod 755 "$work"

system=$work/system.tar
if [ "${1:-}" = -keep ]; then
	mkdir -p "$2"
	system=$2/system.tar
fi
if [ ! -s "$system" ]; then
	mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,network-manager,linux-image-amd64,udev,iproute2 \
		bookworm "$work/new.tar" </dev/null
	mv "$work/new.tar" "$system"
fi
mkdir "$work/root"
tar -xf "$system" -C "$work/root" --exclude='./dev/*'

# What runs there.
to=$work/root/opt/celld
mkdir -p "$to/bin" "$to/stranger" "$to/tests"
scripts/build.sh "$to/bin"
go build -ldflags '-s -w' -o "$to/stranger/" ./bench/give ./bench/give/hungry
go test -c -o "$to/tests/sandbox.test" ./node/sandbox
go test -c -o "$to/tests/give.test" ./node/give
go build -ldflags '-s -w' -o "$to/tests/" ./cmd/cellbox ./node/sandbox/testdata/hostile ./node/sandbox/testdata/obedient
cp scripts/laptop/guest.sh "$to/"
chroot "$work/root" useradd -m -s /bin/bash ann
cp scripts/laptop/ann.sh "$work/root/home/ann/.profile"
units=$work/root/etc/systemd/system
mkdir -p "$units/getty@tty1.service.d" "$work/root/etc/systemd/logind.conf.d"
cat >"$units/getty@tty1.service.d/ann.conf" <<'EOF'
[Service]
ExecStart=
ExecStart=-/sbin/agetty -a ann --noclear %I linux
EOF
cat >"$work/root/etc/systemd/logind.conf.d/idle.conf" <<'EOF'
[Login]
IdleAction=ignore
IdleActionSec=10s
EOF
cat >"$units/giving.target" <<'EOF'
[Unit]
Requires=multi-user.target
Wants=giving.service
After=multi-user.target
EOF
cat >"$units/giving.service" <<'EOF'
[Unit]
After=multi-user.target NetworkManager-wait-online.service systemd-logind.service
Wants=NetworkManager-wait-online.service systemd-logind.service
[Service]
Type=oneshot
ExecStart=/bin/sh /opt/celld/guest.sh
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
TimeoutStartSec=infinity
EOF
mke2fs -q -t ext4 -d "$work/root" "$work/disk" 2G
iasl -p "$work/acpi" scripts/laptop/acpi.asl >/dev/null

emulated='-accel tcg,thread=multi -cpu max' virtual='-accel kvm -cpu max,-arch-capabilities'
mkfifo "$work/monitor.in" "$work/monitor.out"
# turn_on QEMU'S OPTIONS SECONDS starts it, and waits for so long until its kernel says something, and then until the script in
# it does. A kernel says its version first: in two to three seconds when it is emulated on a machine that has other work, too.
turn_on() {
	: >"$work/said"
	: >"$work/console"
	# shellcheck disable=SC2086 # several words
	TMPDIR=$work timeout 5000 qemu-system-x86_64 -M pc $1 -smp 2 -m 2048 -nodefaults -no-reboot -display none -vga none \
		-kernel "$work"/root/boot/vmlinuz-* -initrd "$work"/root/boot/initrd.img-* \
		-append 'root=/dev/vda rw console=ttyS0 earlyprintk=serial,ttyS0,115200 systemd.unit=giving.target' \
		-drive "file=$work/disk,format=raw,if=virtio,snapshot=on" \
		-acpitable "file=$work/acpi.aml" -device qemu-xhci -device usb-kbd,id=usb -nic user,model=virtio-net-pci,restrict=on \
		-serial "file:$work/console" -serial "file:$work/said" -monitor "pipe:$work/monitor" &
	qemu=$!
	cat "$work/monitor.out" >/dev/null &
	exec 3<>"$work/monitor.in" # also without a reader: it may have ended at once
	wait_for "$2" said_or_gone 'Linux version' "$work/console" && wait_for 600 said_or_gone . "$work/said" && [ -s "$work/said" ]
}
said_or_gone() { grep -q "$1" "$2" || ! kill -0 "$qemu" 2>/dev/null; }
turn_off() {
	kill "$qemu" 2>/dev/null || : # it may have ended
	wait "$qemu" || :
	qemu=''
}
# The kernel runs it where processors help it to, many times faster. A /dev/kvm without that, as within some other machines, runs
# kernels that are made for it, and others never come to their first word. A machine that is emulated, of two processors,
# hangs now and then while its kernel starts, where others need the real ones.
try() { turn_on "$@" || { turn_off && false; }; }
helped() { [ -w /dev/kvm ] && grep -Eqw 'vmx|svm' /proc/cpuinfo; }
{ helped && try "$virtual" 20; } || try "$emulated" 60 || try "$emulated" 60 || turn_on "$emulated" 120 || die "it does not start; its console: $(tail -n 20 "$work/console")"

# It says what is to be done with its keyboards; the rest is for who reads this.
monitor() {
	case $1 in
	key) echo 'sendkey a' >&3 ;;
	'unplug usb') echo 'device_del usb' >&3 ;;
	'plug virtio') echo 'device_add virtio-keyboard-pci,id=virtio' >&3 ;;
	esac
}
cr=$(printf '\r')
{ tail -n +1 -f --pid="$qemu" "$work/said" & } | while IFS= read -r line; do # with nothing between that keeps a line back
	line=${line%"$cr"}
	case $line in
	@*) monitor "${line#@}" ;;
	*) printf '%s\n' "$line" ;;
	esac
done | tee "$work/printed"
wait "$qemu" || die "it ended with an error; its console: $(tail -n 20 "$work/console")"
qemu=''
exit_if() { if grep -q "$1" "$work/printed"; then die "$2"; fi; }
grep -q '^== end$' "$work/printed" || die "it did not come to its end; its console: $(tail -n 20 "$work/console")"
exit_if '<- MISSED\|^--- FAIL\|^FAIL' 'a figure is not what is promised'
exit_if '^status of .*: [1-9]' 'a part failed'
