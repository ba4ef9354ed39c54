#!/usr/bin/env bash
# Install packages that we can do without, by apt where allowed. A package index that cannot be had
# is not asked again by every make.
# Usage: optional.sh NAME WHY WITHOUT PACKAGE...   NAME is what a failure is remembered under,
# WITHOUT says how things go on. Status 3: not installed, and said so.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=${EDGESLM_CACHE:-.cache}/no-$1
why=$2
without="going on without $3"
shift 3

if [ -n "$(find "$failed" -mmin -1440 2>/dev/null)" ]; then
  echo "edgeslm: $without (installing $* failed within a day; to try again: rm $failed)" >&2
  exit 3
fi
if ! packaging/apt.sh "$why" "$@"; then
  mkdir -p "$(dirname "$failed")"
  touch "$failed"
  echo "edgeslm: $without" >&2
  exit 3
fi
rm -f "$failed"
