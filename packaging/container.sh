#!/usr/bin/env bash
# Make the container image edgeslm of this checkout, for this machine: its Debian package first.
# Usage: container.sh [ARGUMENT OF THE BUILDER]...   podman or docker, or what BUILDER names.
set -euo pipefail
cd "$(dirname "$0")/.."

builder=${BUILDER:-$(command -v podman || command -v docker || true)}
if [ -z "$builder" ]; then
  echo "edgeslm: no podman and no docker here" >&2
  exit 1
fi
arch=$(dpkg --print-architecture)
# A folder of its own: the package of this checkout, and no other that was made before.
out=dist/container
rm -rf "$out"
PYTHONPATH=packaging .venv/bin/python -m packages --only edgeslm --arch "$arch" --out "$out"
"$builder" build --file packaging/Containerfile --build-arg "TARGETARCH=$arch" --tag edgeslm "$@" .
