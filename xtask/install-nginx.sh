#!/bin/sh
# Installs nginx for the lab without leaving a web server running: it is neither started now nor at the next boot.
# Called by `cargo xtask setup` as root, and only where nginx was not installed before.
set -eux
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    # While this policy stands, package scripts start no service. It goes away again however this script ends.
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get install -q -y --no-install-recommends --no-remove nginx
if command -v systemctl > /dev/null; then
    systemctl disable nginx || echo 'nginx could not be disabled: it may start at the next boot' >&2
fi
