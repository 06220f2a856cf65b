#!/usr/bin/env bash
# Losses on netem: their share is what the profile says, random and in bursts, also for packets that
# TCP's or UDP's offloads handed over many at a time.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

modprobe sch_netem 2>/dev/null || true
start_sinks
own_links --backend netem

# A queue of half a minute: a sender that was held up and catches up must not lose to a full one.
profile() { # NAME LOSS
    printf 'description = "test"\n' >"$WORK/$1.toml"
    printf '[%s]\nrate = "50mbit"\nqueue = "30s"\ndelay = "5ms"\nloss = %s\n' down "$2" up '"0%"' >>"$WORK/$1.toml"
}

drained() { [ "$(shown a down .counters.queue_packets)" -eq 0 ]; }

# Datagrams of wire size handed over many at a time: how many netem dropped, and how many passed.
lost_of_flood() { # SECONDS
    local before after passed_before passed_after
    before=$(shown a down .counters.dropped_queue)
    passed_before=$(shown a down .counters.packets)
    in_server a "$PYTHON" "$ROOT/tests/link-traffic.py" flood "$CLIENT" 40 "$1"
    eventually 60 drained
    after=$(shown a down .counters.dropped_queue)
    passed_after=$(shown a down .counters.packets)
    echo $((after - before)) $((passed_after - passed_before))
}

# Tolerances are of 99.99 % of a binomial: 3.89 deviations; bursts of mean length 1/r widen them by
# the square root of (2 - r)/r, since losses in a burst come together.
check() { # WHAT LOST PASSED SHARE WIDENING
    local sent=$(($2 + $3)) deviation
    deviation=$(jq -n "3.89 * $5 * ($sent * $4 * (1 - $4) | sqrt)")
    expect "$1: expected losses" "$(jq -n "$sent * $4")" -ge 100
    expect "$1: lost of $sent" "$2" -ge "$(jq -n "$sent * $4 - $deviation")"
    expect "$1: lost of $sent" "$2" -le "$(jq -n "$sent * $4 + $deviation")"
}

profile random '"2%"'
link set a "$WORK/random.toml" >/dev/null
read -r lost passed <<<"$(lost_of_flood 3)"
check "random 2 %" "$lost" "$passed" 0.02 1

# p / (p + r) is 1/41 of the packets in bursts of 5.
profile bursts '{ p = "0.5%", r = "20%" }'
link set a "$WORK/bursts.toml" >/dev/null
read -r lost passed <<<"$(lost_of_flood 5)"
check "bursts, 2.44 %" "$lost" "$passed" "$(jq -n '0.005 / 0.205')" 3

echo "== counted at the far end, one by one"
link set a "$WORK/random.toml" >/dev/null
in_server a "$PYTHON" "$ROOT/tests/link-traffic.py" count "$CLIENT" 15 6000 >"$WORK/count"
read -r came overtaken <"$WORK/count"
check "random 2 % at the receiver" $((6000 - came)) "$came" 0.02 1
expect "overtaken" "$overtaken" -eq 0

echo "== no loss where none is asked for"
profile none '"0%"'
link set a "$WORK/none.toml" >/dev/null
read -r lost passed <<<"$(lost_of_flood 2)"
expect "lost of $passed" "$lost" -eq 0
