#!/usr/bin/env bash
# Rate, round trip and loss of profiles that netem carries, on two links at once, by the same measure as the userspace
# backend's (tests/acceptance.py). A virtual machine wakes late when the machine is busy, and tbf then loses rate
# that its small burst cannot make up; so one slow profile stands for all here, and TWINLINK_ACCEPTANCE=full takes
# every wireless one up to 100 Mbit/s, on an idle machine.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary
in_a_lab "$@"

profiles=3g
if [ "${TWINLINK_ACCEPTANCE:-}" = full ]; then
    profiles="wifi-near wifi-mid wifi-far lte-strong lte-medium lte-weak 3g edge geo"
    export ACCEPTANCE_LONGEST_S=${ACCEPTANCE_LONGEST_S:-150}
else
    echo "only $profiles; TWINLINK_ACCEPTANCE=full takes all"
fi
# One processor does everything.
export ACCEPTANCE_GENTLE=yes ACCEPTANCE_PACKETS_PER_S=2000
PYTHON=$(python3 -c 'import sys; print(sys.executable)')

echo "| profile | rate, Mbit/s | measured | round trip, ms | measured | loss (99.99 % range) |"
echo "|---|---|---|---|---|---|"
failed=()
ACCEPTANCE_BARE_MS=$("$PYTHON" "$ROOT/tests/acceptance.py" idle)
export ACCEPTANCE_BARE_MS
echo "round trip with nothing shaped: $ACCEPTANCE_BARE_MS ms"
for profile in $profiles; do
    "$TWINLINK_BIN" link list --json |
        jq --arg name "$profile" '.[] | select(.name == $name) | .profile + { name: $name }' >"$WORK/profile.json"
    "$TWINLINK_BIN" link hold --link-a "$profile" --link-b "$profile" --backend netem --counters "$WORK/counters.json" -- \
        "$PYTHON" "$ROOT/tests/acceptance.py" "$WORK/profile.json" || failed+=("$profile")
done
[ ${#failed[@]} -eq 0 ] || fail "out of range: ${failed[*]}"
