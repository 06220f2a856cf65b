#!/usr/bin/env bash
# `twinlink link probe` is the lab's own iperf3: on links without loss its goodput is iperf3's in the
# same namespaces, each way. And it tells a link that is not what its profile says.
# Runs alone: it compares two measurements of rates.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"
have iperf3 || cannot_run "iperf3 not found; tests/setup/packages.sh peers"

"$TWINLINK_BIN" segments "$WORK/data" --count 8 --mean-size 500KB --seed 1 >/dev/null
start_servers "$WORK/data"
for each in a b; do
    in_server "$each" iperf3 -s >/dev/null 2>&1 &
    at_exit "kill $!"
    eventually 20 bash -c "exec 3<>/dev/tcp/${server[$each]}/5201"
done

# Mbit/s of goodput after the first second, of both links at once, as the probe does it.
cat >"$WORK/iperf3.sh" <<'END'
for way in down up; do
    reverse=-R
    [ "$way" = down ] || reverse=
    for each in a:10.45.0.2 b:10.45.0.3; do
        iperf3 -c "${each#*:}" -t 4 -O 1 -J $reverse >"$WORK/iperf3-${each%%:*}-$way" &
    done
    wait
done
END
of_iperf3() { jq '.end.sum_received.bits_per_second / 1e6' "$WORK/iperf3-$1-$2"; }
of_probe() { jq --arg l "$1" --arg d "$2" '.[] | select(.link == $l and .direction == $d) | .goodput_kbit / 1e3' "$WORK/probe"; }
expected() { jq --arg l "$1" --arg d "$2" '.[] | select(.link == $l and .direction == $d) | .rate_expected_kbit / 1e3' "$WORK/probe"; }

for pair in "rate-80 rate-20" "dsl cable"; do
    read -r a b <<<"$pair"
    echo "== $a and $b"
    link hold --link-a "$a" --link-b "$b" -- bash "$WORK/iperf3.sh" 2>/dev/null
    link probe --json --link-a "$a" --link-b "$b" >"$WORK/probe"
    expect "directions that are what their profiles say" "$(jq '[.[] | select(.ok)] | length' "$WORK/probe")" -eq 4
    for each in a b; do
        for way in down up; do
            # A machine that is held up takes from either figure and adds to none. So the probe finds what
            # iperf3 finds, or more, and never more than full frames of the link's rate carry: 1448 of 1514 bytes.
            found=$(of_probe "$each" "$way")
            expect "Mbit/s of $each $way, at least iperf3's less 3 %" "$found" -ge "$(jq -n "0.97 * $(of_iperf3 "$each" "$way")")"
            expect "Mbit/s of $each $way, at most the link's" "$found" -le "$(jq -n "1.01 * $(expected "$each" "$way") * 1448 / 1514")"
        done
    done
done
expect "devices that the probes left" "$(ip -o link show type ifb | grep -c twl- || true)" -eq 0

echo "== as the links are: unshaped, and another process's"
link probe --json >"$WORK/probe"
expect "verdicts on links that are not shaped" "$(jq -c 'map(.ok) | unique' "$WORK/probe")" = "[null]"
own_links --link-b rate-20
link probe --json >"$WORK/probe"
expect "the rate of b is its owner's" "$(jq -c 'map(select(.link == "b")) | map(.rate_expected_kbit, .ok) | unique' "$WORK/probe")" = "[true,20000]"
release_links

echo "== a link that is not what its profile says"
in_server a tc qdisc add dev eth0 root tbf rate 10mbit burst 3000 limit 100000
client() { "$TWINLINK_BIN" client --link-a rate-20 --link-b rate-80 --log "$WORK/$1.jsonl" "${@:2}" "${server[a]}" "${server[b]}" >"$WORK/out" 2>&1; }
# Of the links that are right, a busy machine's verdict may be bad; it then says so, and blames no link.
wrong() { # LOG
    records probe "$1" | jq -r 'select(.ok == false) | .link + " " + .direction + (if (.verdict | test("^This machine is busy")) then " (busy)" else "" end)' |
        grep -vE '^(a up|b down|b up) \(busy\)$' | sed 's/ (busy)$//'
}
if client on --probe; then fail "a run with a wrong link went on: $(cat "$WORK/out")"; fi
expect "how the run ended" "$(records run_end "$WORK/on.jsonl" | jq -r .exit)" = probe
records probe "$WORK/on.jsonl" | jq -r '"\(.link) \(.direction): \(.verdict)"'
expect "directions that are wrong" "$(wrong "$WORK/on.jsonl")" = "a down"
expect "segments of that run" "$(records segment "$WORK/on.jsonl" | wc -l)" -eq 0
client warn --probe warn
expect "how a run that is only warned ended" "$(records run_end "$WORK/warn.jsonl" | jq -r .exit)" = ok
expect "verdicts of that run" "$(records probe "$WORK/warn.jsonl" | wc -l)" -eq 4
expect "directions that are wrong in that run" "$(wrong "$WORK/warn.jsonl")" = "a down"
