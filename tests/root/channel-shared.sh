#!/usr/bin/env bash
# The shared channel on real packets: two stations that always have something to send each get
# L / (t1 + t2), each alone its own rate, and a link between two stations L / (t_up + t_down).
# Runs alone: it measures rates.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary
in_a_lab "$@"

PYTHON=$(python3 -c 'import sys; print(sys.executable)')

# channel OVERHEAD [CLIENT_PHY]: 54 and 6 Mbit/s.
channel() {
    printf 'description = "test"\n[channel]\noverhead = "%s"\n' "$1"
    [ $# -eq 1 ] || printf '[client]\nphy = "%s"\n' "$2"
    printf '[link.a]\nphy = "54mbit"\nqueue = "100p"\n[link.b]\nphy = "6mbit"\nqueue = "100p"\n'
}

# flood SCENARIO LINKS: what each of these links carries down when it is kept full, in bit/s.
flood() {
    "$TWINLINK_BIN" link hold --channel "$1" --counters "$WORK/counters.json" -- \
        "$PYTHON" "$ROOT/tests/acceptance.py" flood "$2" 2>>"$WORK/words"
}

# near WHAT FOUND FORMULA: within 5 % of the value of a formula in L, in bits, and seconds.
near() {
    local wanted
    wanted=$(awk "BEGIN { L = 1514 * 8; print $3 }")
    expect "$1" "$2" -ge "$(awk "BEGIN { print $wanted * 0.95 }")"
    expect "$1" "$2" -le "$(awk "BEGIN { print $wanted * 1.05 }")"
}

for overhead in 0 170; do
    channel "${overhead}us" >"$WORK/channel.toml"
    a="($overhead * 1e-6 + L / 54e6)" b="($overhead * 1e-6 + L / 6e6)"
    read -r fast slow <<<"$(flood "$WORK/channel.toml" ab)"
    near "overhead $overhead µs, 54 Mbit/s beside 6, bit/s" "$fast" "L / ($a + $b)"
    near "overhead $overhead µs, 6 Mbit/s beside 54, bit/s" "$slow" "L / ($a + $b)"
    shares=$(jq -r '[.links[0].air[] | select(.station | startswith("server")) | .seconds] | add' "$WORK/counters.json")
    expect "overhead $overhead µs, seconds on the channel of both servers" "$shares" -gt 3
    near "overhead $overhead µs, 54 Mbit/s alone, bit/s" "$(flood "$WORK/channel.toml" a)" "L / $a"
    near "overhead $overhead µs, 6 Mbit/s alone, bit/s" "$(flood "$WORK/channel.toml" b)" "L / $b"
done

channel 170us 24mbit >"$WORK/channel.toml"
near "two crossings, bit/s" "$(flood "$WORK/channel.toml" b)" "L / (170e-6 + L / 6e6 + 170e-6 + L / 24e6)"
