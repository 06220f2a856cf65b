#!/usr/bin/env bash
# The kernel under test shapes as the lab needs it: tbf with netem as its child on an ifb, fed by
# mirred from an interface's ingress, delays a ping. This uses tc and ping alone, so a failure here is
# the kernel's or the tools', never ours.
. "$(dirname "$0")/../lib.sh"
needs_root

echo "kernel $(uname -r)"
for module in sch_netem sch_tbf sch_ingress cls_u32 act_mirred ifb; do
    modprobe "$module" || fail "module $module not found in kernel $(uname -r)"
done

server=kernel-s-$$ client=kernel-c-$$
ip netns add "$server"
at_exit "ip netns del $server"
ip netns add "$client"
at_exit "ip netns del $client"
ip link add eth0 netns "$server" type veth peer name eth0 netns "$client"
for side in "$server 10.77.0.1" "$client 10.77.0.2"; do
    read -r name address <<<"$side"
    ip -n "$name" link set lo up
    ip -n "$name" address add "$address/24" dev eth0
    ip -n "$name" link set eth0 up
done

ip -n "$client" link add down-a type ifb
ip -n "$client" link set down-a up
tc -n "$client" qdisc add dev eth0 clsact
tc -n "$client" filter add dev eth0 ingress protocol ip u32 match ip src 10.77.0.1/32 \
    action mirred egress redirect dev down-a
tc -n "$client" qdisc add dev down-a root handle 1: tbf rate 4mbit burst 3028 limit 1000000
tc -n "$client" qdisc add dev down-a parent 1:1 handle 10: netem delay 40ms limit 2000

rtt=$(ip netns exec "$client" ping -q -c 5 -i 0.2 10.77.0.1 | sed -n 's|^rtt .*= [^/]*/\([^/]*\)/.*|\1|p')
expect "idle RTT in ms with 40 ms of delay" "$rtt" -ge 40
expect "idle RTT in ms with 40 ms of delay" "$rtt" -le 55

tc -n "$client" -s qdisc show dev down-a
