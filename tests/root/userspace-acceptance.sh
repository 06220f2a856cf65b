#!/usr/bin/env bash
# Rate, round trip and loss of profiles that packets are held for in userspace, on this kernel.
# Runs alone: it measures rates, delays and losses.
. "$(dirname "$0")/../lib.sh"
BACKEND=userspace
PROFILES=${PROFILES:-$([ "${TWINLINK_ACCEPTANCE:-}" = full ] || echo "wifi-far lte-medium edge 5g-mid")}
. "$ROOT/tests/acceptance.sh"
