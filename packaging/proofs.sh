#!/usr/bin/env bash
# Have the programs that the tests kill, cut power, lose packets and hold keys with, by apt where
# allowed. Not being able to is no fault: those tests skip and say why. So the status is always 0.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need strace strace
need qemu-storage-daemon qemu-system-common
need fusermount3 fuse3
need nft nftables
need softhsm2-util softhsm2
if [ ${#missing[@]} = 0 ]; then exit 0; fi

packaging/optional.sh proofs "what some tests prove with" \
  "${missing[*]}: tests that need them skip" "${missing[@]}" || true
