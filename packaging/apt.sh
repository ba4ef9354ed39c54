#!/usr/bin/env bash
# Install Debian or Ubuntu packages where root or passwordless sudo allows it.
# Usage: apt.sh WHY PACKAGE...   Status 1, with the command to type, where it is not allowed.
set -euo pipefail

why=$1
shift

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

echo "edgeslm: $why: installing $* with apt-get" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "$@"; } \
  </dev/null >"$log" 2>&1; then
  cat "$log" >&2
  echo "edgeslm: apt-get could not install $*" >&2
  exit 1
fi
