#!/usr/bin/env bash
# Rate, round trip and loss of profiles that netem carries, by the same measure as the userspace
# backend's. A virtual machine wakes late when the machine is busy, and tbf then loses rate that
# its small burst cannot make up; so one slow profile stands for all here, and
# TWINLINK_ACCEPTANCE=full takes every wireless one up to 100 Mbit/s, on an idle machine.
. "$(dirname "$0")/../lib.sh"
BACKEND=netem
if [ "${TWINLINK_ACCEPTANCE:-}" = full ]; then
    PROFILES=${PROFILES:-wifi-near wifi-mid wifi-far lte-strong lte-medium lte-weak 3g edge geo}
else
    PROFILES=${PROFILES:-3g}
    echo "only $PROFILES; TWINLINK_ACCEPTANCE=full takes all"
fi
# One processor does everything.
export ACCEPTANCE_GENTLE=yes
export ACCEPTANCE_PACKETS_PER_S=${ACCEPTANCE_PACKETS_PER_S:-2000}
. "$ROOT/tests/acceptance.sh"
