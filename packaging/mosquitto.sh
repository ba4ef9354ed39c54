#!/usr/bin/env bash
# Have the mosquitto broker and its clients, by apt where allowed. Not being able to is no fault:
# the demo has a broker of its own, tests skip and say why. So the status is always 0.
set -euo pipefail
cd "$(dirname "$0")/.."

# Only what is missing: the one that is there may be in use, and would be stopped by an upgrade.
missing=()
command -v mosquitto >/dev/null || missing+=(mosquitto)
for client in mosquitto_pub mosquitto_sub; do
  if ! command -v "$client" >/dev/null; then
    missing+=(mosquitto-clients)
    break
  fi
done
if [ ${#missing[@]} = 0 ]; then exit 0; fi

if packaging/optional.sh mosquitto "the mosquitto broker" \
  "mosquitto: the demo uses its embedded broker, tests that need it skip" "${missing[@]}" &&
  [ "${missing[0]}" = mosquitto ]; then
  echo "edgeslm: mosquitto is installed, its service not started; it would start with the next" \
    "boot, unless: sudo systemctl disable mosquitto" >&2
fi
