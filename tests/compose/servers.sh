#!/usr/bin/env bash
# The variant that opens the servers to this host: what they serve, with which privileges, and a user's own
# segments in the place of the samples.
. "$(dirname "$0")/lib.sh"

# Port 0 lets the kernel pick one that is free.
export TWINLINK_PORT_A=0 TWINLINK_PORT_B=0
open() { compose -f compose.yaml -f compose/open.yaml "$@"; }
at_exit "open down -v --remove-orphans --timeout 5 >/dev/null 2>&1"
build

echo "== the servers opened to this host"
address_of() { open port "$1" 4455; }
open up -d --wait server-a server-b >"$WORK/open.log" 2>&1 || fail "cannot open the servers: $(tail -n 5 "$WORK/open.log")"
for service in server-a server-b; do
    curl -sf -m 20 -o "$WORK/sums" "http://$(address_of "$service")/SHA256SUMS"
    expect "$service: names in SHA256SUMS" "$(wc -l <"$WORK/sums")" -eq 160
    expect "$service: address on this host" "$(address_of "$service" | cut -d: -f1)" = 127.0.0.1
    expect "$service: effective capabilities" "$(open exec -T "$service" sed -n 's/^CapEff:\t//p' /proc/self/status)" = 0000000000000000
    expect "$service: user" "$(open exec -T "$service" id -u)" -ne 0
    ! open exec -T "$service" touch /probe 2>/dev/null || fail "$service can write to its root"
done
curl -sf -m 20 -o "$WORK/s001.m4s" "http://$(address_of server-a)/s001.m4s"
(cd "$WORK" && grep ' [ *]\?s001.m4s$' sums | sha256sum -c --quiet) || fail "s001.m4s is not what SHA256SUMS says"

echo "== a user's own segments"
head -c 100000 /dev/urandom >server_data/one.bin
head -c 200000 /dev/urandom >server_data/two.bin
chmod 644 server_data/*.bin
open up -d --wait --force-recreate server-a >"$WORK/open.log" 2>&1 || fail "cannot restart server-a: $(tail -n 5 "$WORK/open.log")"
curl -sf -m 20 "http://$(address_of server-a)/one.bin" | cmp - server_data/one.bin
expect "status of a sample when a folder is mounted" "$(curl -s -m 20 -o /dev/null -w '%{http_code}' "http://$(address_of server-a)/s001.m4s")" -eq 404

echo "== nothing is left"
ends open
