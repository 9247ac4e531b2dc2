#!/bin/sh
# Installs a package for the lab without leaving its service running: it is neither started now nor at the next boot.
# Called by `cargo xtask setup` as root with the package and its service, and only where the package was not installed before.
set -eux
package=$1
service=$2
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    # While this policy stands, package scripts start no service. It goes away again however this script ends.
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get install -q -y --no-install-recommends --no-remove "$package"
if command -v systemctl > /dev/null; then
    systemctl disable "$service" || echo "$service could not be disabled: it may start at the next boot" >&2
fi
