#!/usr/bin/env bash
# Rate-only links hold their rate, down and up, both at once and for IPv6, on whatever kernel this is;
# what leaves them is of wire size, and small packets are charged 14 bytes more than their IP length.
# Runs alone: it measures rates.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

start_sinks
own_links --link-a rate-20 --link-b rate-80

echo "== headers count the same each way"
ping -q -c 10 -i 0.2 -s 100 "${server[a]}" >/dev/null
expect "bytes of 10 pings of 128 IP bytes, up" "$(shown a up .counters.bytes)" -eq 1420
expect "bytes of 10 pings of 128 IP bytes, down" "$(shown a down .counters.bytes)" -eq 1420
expect "packets, down" "$(shown a down .counters.packets)" -eq 10

echo "== rates"
for way in down up; do
    rate_holds "Mbit/s of a $way" a "$way" 26 2 20 2
    rate_holds "Mbit/s of b $way" b "$way" 104 2 80 2
done
expect "drops of a down" "$(shown a down .counters.dropped_queue)" -gt 0
expect "drops of a down by loss" "$(shown a down .counters.dropped_loss)" -eq 0

echo "== both links at once, one down and one up"
rate_holds "Mbit/s of a down beside b" a down 26 2 20 2 &
beside=$!
rate_holds "Mbit/s of b up beside a" b up 104 2 80 2
wait "$beside"

echo "== a change on a slow link takes effect at once"
printf 'description = "slow"\n[down]\n%s\n[up]\n%s\n' 'rate = "1mbit"
queue = "60s"' 'rate = "8kbit"
queue = "60s"' >"$WORK/slow.toml"
link set a "$WORK/slow.toml" >/dev/null
# Two fit in the bucket; the next would wait for a second and a half.
"$PYTHON" -c 'import socket, sys
for _ in range(6): socket.socket(type=socket.SOCK_DGRAM).sendto(bytes(1400), (sys.argv[1], 9))' "${server[a]}"
expect "packets that wait" "$(shown a up .counters.queue_packets)" -ge 3
link set a rate-20 >/dev/null
expect "packets that wait after the change" "$(shown a up .counters.queue_packets)" -eq 0

echo "== packets of wire size, though TCP hands over larger ones"
head -c 8000000 /dev/zero >"$WORK/file"
in_server a "$PYTHON" -m http.server --directory "$WORK" --bind "${server[a]}" 8000 >/dev/null 2>&1 &
at_exit "kill $!"
eventually 90 curl -sf -o /dev/null -r 0-0 "http://${server[a]}:8000/"
size() { ip -s -j link show dev "twl-$1" | jq '.[0].stats64.rx | [.bytes, .packets] | @csv' -r; }
IFS=, read -r bytes packets <<<"$(size a-down)"
curl -sf -o /dev/null "http://${server[a]}:8000/file"
IFS=, read -r bytes_after packets_after <<<"$(size a-down)"
mean=$(jq -n "($bytes_after - $bytes) / ($packets_after - $packets)")
expect "mean bytes of a packet" "$mean" -le 1514
expect "mean bytes of a packet" "$mean" -gt 1400
rates=$(tc -j qdisc show dev twl-a-down | jq -c '.[0].options | [.rate, .burst]')
expect "rate and burst in bytes" "$rates" = "[2500000,3000]"

if [ -e /proc/net/if_inet6 ]; then
    echo "== an IPv6 server"
    release_links
    own_links --link-a rate-20 --server-a server-a6
    in_server a "$PYTHON" "$ROOT/tests/link-traffic.py" sink fd45::2 &
    at_exit "kill $!"
    eventually 90 traffic rtt fd45::2 1
    before=$(shown a up .counters.bytes)
    ping -q -c 5 -i 0.2 -s 100 "${server[a]}" >/dev/null
    expect "bytes of IPv4 pings on the IPv6 link" "$(shown a up .counters.bytes)" -eq "$before"
    traffic flood fd45::2 26 3 &
    flooder=$!
    sleep 1
    mbit=$(traffic rate /sys/class/net/twl-a-up/statistics/rx_bytes 1.5)
    wait "$flooder"
    within "Mbit/s up to an IPv6 server" "$mbit" 20 2
fi
