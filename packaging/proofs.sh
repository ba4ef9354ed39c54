#!/usr/bin/env bash
# Have the programs that the tests kill, cut power, lose packets and hold keys with, by apt where
# allowed. Not being able to is no fault: those tests skip and say why. So the status is always 0.
# Usage: proofs.sh [slow]   With what the slow tests alone want, which is large: a browser for the
# fleet's page, and what makes and boots a Debian system of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need strace strace
need qemu-storage-daemon qemu-system-common
need fusermount3 fuse3
need nft nftables
need softhsm2-util softhsm2
need stunnel4 stunnel4
engine=("${EDGESLM_ENGINES:-/usr/lib}"/*/engines-3/pkcs11.so)
[ -e "${engine[0]}" ] || missing+=(libengine-pkcs11-openssl)
# Debian keeps the programs of each version of it in a folder of their own.
postgresql=("${EDGESLM_POSTGRESQL:-/usr/lib/postgresql}"/*/bin)
PATH=$(IFS=: && echo "$PATH:${postgresql[*]}") need initdb postgresql
if [ "${1:-}" = slow ]; then
  need systemd-nspawn systemd-container
  need mmdebstrap mmdebstrap
  command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
fi
if [ ${#missing[@]} = 0 ]; then exit 0; fi

packaging/optional.sh proofs "what some tests prove with" \
  "${missing[*]}: tests that need them skip" "${missing[@]}" || true
