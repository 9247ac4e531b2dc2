#!/bin/sh
# Installs, upgrades, removes and purges the package in a clean root while its program is attached. Called by `cargo xtask dist --try` in
# mount, network and process namespaces of its own, with the root and two packages, the second of a later version.
set -eu
root=$1 first=$2 second=$3

say() { echo "--- $*"; }
fail() {
    echo "FAILED: $*" >&2
    cat "$root/tmp/daemon.log" >&2 2> /dev/null || true
    exit 1
}
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
weir() { inside weir "$@"; }
# The number of the program on the interface; empty if there is none.
program() { ip -d link show dev edge0 | sed -n 's/.*prog\/xdp id \([0-9]*\).*/\1/p'; }
start() {
    inside weir daemon > "$root/tmp/daemon.log" 2>&1 < /dev/null &
    daemon=$!
    tries=0
    until weir status > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 150 ] || fail "the daemon does not answer"
        kill -0 $daemon 2> /dev/null || fail "the daemon ended"
        sleep 0.1
    done
}
stop() {
    kill "$daemon"
    wait "$daemon" || fail "the daemon did not end well"
}
# Waits for what a command prints to be this.
still() { [ "$(program)" = "$attached" ] || fail "$1: program '$(program)' instead of '$attached'"; }

mount --make-rprivate /
mount -t proc proc "$root/proc"
mkdir -p "$root/sys/fs/bpf" "$root/run"
mount -t sysfs sysfs "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs tmpfs "$root/run"
ip link set lo up
ip link add edge0 type veth peer name out0
ip link set edge0 up
ip link set out0 up
ip address add 10.1.1.1/24 dev edge0
cp "$first" "$root/tmp/first.deb"
cp "$second" "$root/tmp/second.deb"
inside dpkg --purge weir > /dev/null 2>&1 || true
rm -rf "$root/etc/weir" "$root/var/lib/weir"

say install
inside dpkg --install /tmp/first.deb
weir --version
[ ! -e "$root/etc/weir/weir.toml" ] || fail "a configuration was installed"
[ -z "$(program)" ] || fail "installing attached something"
for file in usr/share/man/man5/weir.toml.5.gz usr/share/bash-completion/completions/weir lib/systemd/system/weir.service; do
    [ -s "$root/$file" ] || fail "$file is not there"
done

say "configure from an example, start"
sed 's/interfaces = .*/interfaces = ["edge0"]/' "$root/usr/share/doc/weir/examples/one-rack.toml" > "$root/etc/weir/weir.toml"
weir check || fail "the example is not valid"
start
attached=$(program)
[ -n "$attached" ] || fail "nothing is attached"

say "upgrade while the daemon runs: conffiles stay, so does the program"
echo '# mine' >> "$root/etc/default/weir"
inside dpkg --install --force-confold /tmp/second.deb
grep -q '^# mine' "$root/etc/default/weir" || fail "a changed conffile was overwritten"
still "after the upgrade"
weir status > /dev/null || fail "the daemon is gone after the upgrade"
# What systemctl try-restart does where there is a systemd.
stop
still "between two daemons"
start
still "after the restart"

say "remove: forwarding goes on"
stop
inside dpkg --remove weir
[ ! -e "$root/usr/bin/weir" ] || fail "the binary is still there"
[ -e "$root/etc/weir/weir.toml" ] || fail "removing took the configuration"
still "after removing"

say "install again, adopt what runs"
inside dpkg --install /tmp/second.deb
start
still "after installing again"
stop

say "remove, told to detach"
touch "$root/etc/weir/detach-on-remove"
inside dpkg --remove weir
[ -z "$(program)" ] || fail "the program is still attached"

say purge
inside dpkg --purge weir
[ ! -e "$root/var/lib/weir" ] || fail "purging left the state"
[ -e "$root/etc/weir/weir.toml" ] || fail "purging took what the operator wrote"
say "all is well"
