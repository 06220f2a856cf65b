#!/usr/bin/env bash
# The shared channel on real packets: stations that always have something to send get what ns-3 and its
# documents give (tests/loopback/wifi-truth.csv), and a link between two stations what its two crossings leave.
# Runs alone: it measures rates.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary
in_a_lab "$@"

PYTHON=$(python3 -c 'import sys; print(sys.executable)')
ROWS=${ROWS:-a54 a54-54 a54-6 b11-1 n7 n7-7 n7-3 n7-3-txop n7-plain}

# flood CHANNEL LINKS: the UDP payload that each of these links carries down when it is kept full, in Mbit/s.
flood() {
    "$TWINLINK_BIN" link hold --channel "$1" --counters "$WORK/counters.json" -- \
        "$PYTHON" "$ROOT/tests/acceptance.py" flood "$2" 2>>"$WORK/words" |
        awk '{ for (i = 1; i <= NF; i++) $i = sprintf("%.3f", $i * 1472 / 1514 / 1e6); print }'
}

# near WHAT FOUND WANTED PERCENT
near() {
    awk "BEGIN { printf \"%s: %+.1f %%\n\", \"$1\", ($2 / $3 - 1) * 100 }"
    expect "$1, Mbit/s" "$2" -ge "$(awk "BEGIN { print $3 * (1 - $4 / 100) }")"
    expect "$1, Mbit/s" "$2" -le "$(awk "BEGIN { print $3 * (1 + $4 / 100) }")"
}

# phy STANDARD RATE: the name of a radio.
phy() {
    case $1-$2 in
    802.11n-6.5) echo 802.11n/20MHz/MCS0 ;;
    802.11n-13) echo 802.11n/20MHz/MCS1 ;;
    802.11n-19.5) echo 802.11n/20MHz/MCS2 ;;
    802.11n-26) echo 802.11n/20MHz/MCS3 ;;
    802.11n-39) echo 802.11n/20MHz/MCS4 ;;
    802.11n-65) echo 802.11n/20MHz/MCS7 ;;
    *) echo "$1/$2" ;;
    esac
}

# channel STANDARD RATES AMPDU_BYTES TXOP_US: a channel file with a server at each rate.
channel() {
    local rate link=a
    printf 'description = "test"\n[channel]\n'
    case $1-$3 in
    802.11n-0) echo 'ampdu = 1' ;;
    802.11n-*) echo "ampdu_bytes = \"${3}B\"" ;;
    esac
    [ "$4" = 0 ] || echo "txop = \"${4}us\""
    for rate in $2; do
        printf '[link.%s]\nphy = "%s"\nqueue = "300p"\n' "$link" "$(phy "$1" "$rate")"
        link=b
    done
}

for row in $ROWS; do
    IFS=, read -r _ standard rates ampdu txop each sum _ < <(grep "^$row," "$ROOT/tests/loopback/wifi-truth.csv")
    channel "$standard" "$rates" "$ampdu" "$txop" >"$WORK/channel.toml"
    read -r a b <<<"$(flood "$WORK/channel.toml" "$([ "${rates% *}" = "$rates" ] && echo a || echo ab)")"
    if [ -z "$b" ]; then
        near "$row" "$a" "$sum" 2
    else
        near "$row, sum" "$(awk "BEGIN { print $a + $b }")" "$sum" 5
        near "$row, station a" "$a" "${each% *}" 12
        near "$row, station b" "$b" "${each#* }" 12
        busy=$(jq -r '[.links[0].air[] | select(.station | startswith("server")) | .seconds] | add' "$WORK/counters.json")
        expect "$row, seconds on the channel of both servers" "$busy" -gt 3
    fi
done

# Between two stations the server and the access point contend like two stations, and carry the same packets.
{ channel 802.11a 54 0 0 && printf '[client]\nphy = "802.11a/54"\n'; } >"$WORK/channel.toml"
near "two crossings" "$(flood "$WORK/channel.toml" a)" 15.125 5
