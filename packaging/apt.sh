#!/usr/bin/env bash
# Install Debian or Ubuntu packages where root or passwordless sudo allows it. Their services are
# not started: who asks for tests has not asked for a server.
# Usage: apt.sh WHY PACKAGE...   Status 1, with the command to type, where it is not allowed.
set -euo pipefail

why=$1
shift
# What Debian's maintainer scripts ask before they start a service; tests have theirs elsewhere.
policy=${EDGESLM_POLICY:-/usr/sbin/policy-rc.d}

as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
  if ! sudo -n true 2>/dev/null; then
    echo "edgeslm: $why needs: sudo apt-get install $*   (no root and no passwordless sudo here)" >&2
    exit 1
  fi
fi
if ! command -v apt-get >/dev/null; then
  echo "edgeslm: $why needs $*, and this system has no apt-get: install the equivalent yourself" >&2
  exit 1
fi

log=$(mktemp)
guarded=
cleanup() {
  rm -f "$log"
  if [ -n "$guarded" ]; then "${as_root[@]}" rm -f "$policy"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# Where the system has a policy of its own, that one counts.
if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
  guarded=1
  # Only for what is installed here: others may have to be restarted, after a change of libc say.
  "${as_root[@]}" sh -c 'umask 022 && cat >"$1" && chmod 755 "$1"' sh "$policy" <<EOF
#!/bin/sh
# edgeslm's, while it installs $*; may be removed if it is still here afterwards
for asked in "\$@"; do
  for package in $*; do
    case \$asked in "\$package" | "\$package".service) exit 101 ;; esac
  done
done
exit 0
EOF
fi

echo "edgeslm: $why: installing $* with apt-get" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
if ! { "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "$@"; } \
  </dev/null >"$log" 2>&1; then
  cat "$log" >&2
  echo "edgeslm: apt-get could not install $*" >&2
  exit 1
fi
