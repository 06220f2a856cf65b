#!/usr/bin/env bash
# What is told of a link that follows a trace: `link show` has the trace and the rate of the moment, and
# why the link is where it is; `link probe` holds it against no rate, and the other links as ever.
# Runs alone: it probes rates.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

"$TWINLINK_BIN" segments "$WORK/data" --count 8 --mean-size 500KB --seed 1 >/dev/null
start_servers "$WORK/data"

printf '0 8\n1 4\n' >"$WORK/steps.txt"
printf 'description = "steps"\n[down]\n%s[up]\n%s[trace]\nfile = "steps.txt"\ndirection = "down"\n' \
    $'rate = "20mbit"\nqueue = "100ms"\n' $'rate = "20mbit"\nqueue = "100ms"\n' >"$WORK/steps.toml"
cat >"$WORK/look.sh" <<'END'
"$TWINLINK_BIN" link show >"$WORK/words"
"$TWINLINK_BIN" link show --json >"$WORK/rows"
"$TWINLINK_BIN" link probe --json >"$WORK/probe"
END

of_row() { jq -c --arg l "$1" --arg d "$2" ".links[] | select(.link == \$l and .direction == \$d) | $3" "$WORK/rows"; }
of_probe() { jq -r --arg l "$1" --arg d "$2" ".[] | select(.link == \$l and .direction == \$d) | $3" "$WORK/probe"; }
told() { grep -q "$1" "$WORK/words" || fail "'$1' is not in what link show says: $(cat "$WORK/words")"; }

for backend in netem userspace; do
    echo "== $backend"
    link hold --link-a "$WORK/steps.toml" --link-b rate-20 --backend "$backend" -- bash -e "$WORK/look.sh"
    cat "$WORK/words"
    expect "trace of a down" "$(of_row a down .trace)" = '"steps.txt"'
    expect "rate of a down is one of its steps'" "$(of_row a down '.counters.rate_kbit | . == 8000 or . == 4000')" = true
    expect "rate of a's profile" "$(of_row a down .shape.rate)" = '"20mbit"'
    expect "traces of the others" "$(jq -c '[.links[] | .trace] | map(select(. != null)) | length' "$WORK/rows")" -eq 1
    told "link a down follows the trace steps.txt"
    told "link a is on $backend: asked for"
    expect "rate that a down is held against" "$(of_probe a down .rate_expected_kbit)" = null
    of_probe a down .verdict | grep "follows a trace" || fail "the probe does not say so"
    for way in "a up" "b down" "b up"; do
        # shellcheck disable=SC2086
        expect "verdict on $way" "$(of_probe $way .ok)" = true
    done
done
