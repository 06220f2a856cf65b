# Sourced after lib.sh by the acceptance test of each backend: profiles on two links at once, measured
# against what they say. BACKEND carries them. PROFILES names them, TABLE keeps the rows.
# TWINLINK_ACCEPTANCE=full takes every wireless profile and all the time that its losses need (15 minutes).
# shellcheck shell=bash

needs_root
needs_binary
export BACKEND PROFILES
in_a_lab "$@"

if [ "${TWINLINK_ACCEPTANCE:-}" = full ]; then
    profiles=${PROFILES:-wifi-near wifi-mid wifi-far lte-strong lte-medium lte-weak 3g edge geo 5g-mid}
    export ACCEPTANCE_LONGEST_S=${ACCEPTANCE_LONGEST_S:-150}
else
    profiles=${PROFILES:-wifi-far lte-medium edge}
fi
table=${TABLE:-$WORK/table.md}
PYTHON=$(python3 -c 'import sys; print(sys.executable)')

{
    echo "| profile | rate, Mbit/s | measured | round trip, ms | measured | loss (99.99 % range) |"
    echo "|---|---|---|---|---|---|"
} | tee "$table"
failed=()
ACCEPTANCE_BARE_MS=$("$PYTHON" "$ROOT/tests/acceptance.py" idle)
export ACCEPTANCE_BARE_MS
echo "round trip with nothing shaped: $ACCEPTANCE_BARE_MS ms"
for profile in $profiles; do
    "$TWINLINK_BIN" link list --json |
        jq --arg name "$profile" '.[] | select(.name == $name) | .profile + { name: $name }' >"$WORK/profile.json"
    if ! "$TWINLINK_BIN" link hold --link-a "$profile" --link-b "$profile" --backend "$BACKEND" \
        --counters "$WORK/counters.json" -- \
        "$PYTHON" "$ROOT/tests/acceptance.py" "$WORK/profile.json" >"$WORK/rows" 2>"$WORK/errors"; then
        failed+=("$profile")
        cat "$WORK/errors" >&2
    fi
    grep -i 'overload' "$WORK/errors" >&2 || true
    tee -a "$table" <"$WORK/rows"
done
[ ${#failed[@]} -eq 0 ] || fail "out of range on $BACKEND: ${failed[*]}"
