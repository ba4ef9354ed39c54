#!/usr/bin/env bash
# Hold the pinned packages against what is known to be vulnerable (https://osv.dev). Where that
# cannot be asked we say so and go on; status 1 where one of them is.
set -euo pipefail
cd "$(dirname "$0")/.."

report=$(mktemp)
said=$(mktemp)
trap 'rm -f "$report" "$said"' EXIT

# As they are listed: nothing is resolved or installed. A report means that it could be asked.
if .venv/bin/pip-audit --requirement packaging/constraints.txt --no-deps --disable-pip \
  --vulnerability-service osv --timeout 10 --progress-spinner off \
  --format columns --output "$report" >"$said" 2>&1; then
  echo "edgeslm: no known vulnerability in packaging/constraints.txt" >&2
elif [ -s "$report" ]; then
  cat "$report" >&2
  echo "edgeslm: take a version of these without that, or say in SECURITY.md why it does not matter" >&2
  exit 1
else
  echo "edgeslm: vulnerabilities not looked for: $(tail -n 1 "$said")" >&2
fi
