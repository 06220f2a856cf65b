#!/usr/bin/env bash
# Servers that fail in the middle of a run by adaptive, on shaped links: behind a blackhole for less and for
# longer than --give-up, stopped, killed and started again. Each run ends well, every file is right, and the
# server brings something again afterwards. Where both are away the run ends, and what came is kept.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

DATA=$WORK/data
"$TWINLINK_BIN" segments "$DATA" --count 72 --mean-size 500KB --seed 1 >/dev/null
declare -A pid=()
at_exit 'kill -CONT "${pid[@]}"; kill "${pid[@]}"'

serve() { # LINK
    ip netns exec "${ns[$1]}" "$TWINLINK_BIN" server --data "$DATA" --listen 0.0.0.0:4455 >>"$WORK/server-$1.log" 2>&1 &
    pid[$1]=$!
}
blackhole() { # LINK -I|-D: what comes from that server is dropped, or is not any more
    iptables -w "$2" INPUT -s "${server[$1]}" -j DROP
}

received() { # LINK LOG: payload so far
    grep '"event":"sample"' "$2" | jq -R -s --arg link "$1" \
        '[split("\n")[] | fromjson? | .data | select(.link == $link) | .bytes] | last // 0'
}
brings() { # LINK LOG BYTES
    [ "$(received "$1" "$2")" -gt "$3" ]
}

begin() { # NAME FILES OPTIONS...: until both servers have brought something
    echo "== $1"
    log=$WORK/$1.jsonl out=$WORK/$1
    "$TWINLINK_BIN" client --schedule adaptive --link-a rate-20 --link-b rate-20 --files "$2" \
        --out "$out" --log "$log" "${@:3}" "${server[a]}" "${server[b]}" >"$out.words" 2>&1 &
    running=$!
    eventually 20 brings a "$log" 500000
    eventually 20 brings b "$log" 500000
}
ends_well() {
    wait "$running" || fail "the run failed: $(tail -n 3 "$out.words")"
    expect "exit" "$(records run_end "$log" | jq -r .exit)" = ok
    (cd "$out" && sha256sum --check --quiet --ignore-missing "$DATA/SHA256SUMS") || fail "a file has another digest"
    expect "files left unfinished" "$(find "$out/.twinlink" -type f 2>/dev/null | wc -l)" -eq 0
    records run_end "$log" | jq -r .summary
}
# b fails and comes back; what the link brings then counts from when it is back.
comes_back() { # FAIL SECONDS HEAL
    local before
    $1
    sleep "$2"
    before=$(received b "$log")
    $3
    ends_well
    expect "bytes from b afterwards" "$(($(received b "$log") - before))" -gt 500000
    expect "faults of a" "$(records fault "$log" | jq -s '[.[] | select(.link == "a" and (.what | contains("unexplained") | not))] | length')" -eq 0
}

kill_b() { kill -KILL "${pid[b]}"; }

serve a
serve b
for each in a b; do eventually 20 "$TWINLINK_BIN" health "${server[$each]}:4455"; done

begin blackhole-3s 's{001..048}.m4s'
comes_back 'blackhole b -I' 3 'blackhole b -D'

begin blackhole-6s 's{001..072}.m4s' --give-up 4s
comes_back 'blackhole b -I' 6 'blackhole b -D'

begin stopped 's{001..048}.m4s'
comes_back "kill -STOP ${pid[b]}" 3 "kill -CONT ${pid[b]}"

begin killed 's{001..048}.m4s'
comes_back kill_b 2 'serve b'

begin both 's{001..048}.m4s' --give-up 2s
blackhole a -I
blackhole b -I
code=0
wait "$running" || code=$?
blackhole a -D
blackhole b -D
expect "exit code" "$code" -eq 1
expect "exit" "$(records run_end "$log" | jq -r .exit)" = server_away
kept=0
for note in "$out"/.twinlink/notes/*; do
    name=$(basename "$note")
    part=$out/.twinlink/parts/$name
    while read -r from to; do
        cmp --quiet --ignore-initial="$from" --bytes="$((to - from))" "$part" "$DATA/$name" ||
            fail "the bytes $from to $to of $name are noted and not there"
        kept=$((kept + to - from))
    done < <(jq -r '.ranges[] | "\(.[0]) \(.[1])"' "$note")
done
expect "bytes of unfinished files kept" "$kept" -gt 0

echo "== what is missing, with --resume"
log=$WORK/resumed.jsonl
"$TWINLINK_BIN" client --schedule adaptive --link-a rate-20 --link-b rate-20 --files 's{001..048}.m4s' --resume \
    --out "$out" --log "$log" "${server[a]}" "${server[b]}" >"$out.words" 2>&1 &
running=$!
ends_well
expect "files" "$(find "$out" -type f | wc -l)" -eq 48
expect "bytes that an earlier run had left" "$(records run_end "$log" | jq .resumed_bytes)" -gt "$kept"
expect "what a simulation says of a part of a run" "$(records run_end "$log" | jq .predicted_ms)" = null
