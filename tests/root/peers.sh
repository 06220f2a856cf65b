#!/usr/bin/env bash
# Real programs of others on either side of the wire, in network namespaces: curl, aria2c, wget2 and lftp fetch
# from our servers, our client fetches from nginx and from Python's http.server, and from nginx beside
# ours. Every file arrives with the right digest, and ranges, HEAD and kept connections are what
# those programs expect.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary

SELF=$(realpath "$0")

in_lab() { # FUNCTION LAB-OPTIONS...
    echo "== $1"
    local function=$1
    shift
    env KEEP="$WORK" "$ROOT/netem/lab.sh" "$@" --exec bash "$SELF" "$function"
}

# All 160 files in a folder, checked against the list of the set that was served.
check_folder() { # WHAT FOLDER
    (cd "$2" && sha256sum --check --quiet "$DATA/SHA256SUMS") || fail "$1: a file has another digest"
    expect "$1: files in the folder" "$(find "$2" -type f | wc -l)" -eq 160
}

# A Metalink names both servers, so that aria2c chooses and checks the digests.
with_metalink() {
    "$TWINLINK_BIN" manifest --metalink server-a server-b >"$KEEP/list.meta4"
    expect "Metalink: files" "$(grep -c '<file ' "$KEEP/list.meta4")" -eq 160
    aria2c --no-conf --quiet -j2 --metalink-file="$KEEP/list.meta4" --dir="$KEEP/metalink"
    check_folder "aria2c by Metalink" "$KEEP/metalink"
}

# Every program of experiments/peers.toml, over its first links.
with_all_programs() {
    awk '/^\[\[condition\]\]/ { n++ } n < 2' "$ROOT/experiments/peers.toml" |
        sed 's/^repetitions = .*/repetitions = 1/; s/^files = .*/files = "s{001..020}.m4s"/' >"$KEEP/peers.toml"
    "$TWINLINK_BIN" sweep "$KEEP/peers.toml" --results "$KEEP/peers" >"$KEEP/stdout"
    cat "$KEEP"/peers/*/sweep.jsonl >"$KEEP/sweep.jsonl"
    records cell_end "$KEEP/sweep.jsonl" | jq -r .summary
    expect "peers: cells" "$(records cell_end "$KEEP/sweep.jsonl" | wc -l)" -eq 10
    expect "peers: exits" "$(records cell_end "$KEEP/sweep.jsonl" | jq -r .exit | sort -u)" = ok
    expect "peers: least efficiency" "$(records cell_end "$KEEP/sweep.jsonl" | jq -s 'map(.efficiency) | min')" -gt 0
    expect "peers: most efficiency" "$(records cell_end "$KEEP/sweep.jsonl" | jq -s 'map(.efficiency) | max')" -le 1
}

# The links have a rate, since what still comes after a cancellation is wasted, and a link without a rate
# brings any number of bytes before its server hears of it.
run_client() { # NAME OPTIONS...: our client, from whatever the servers are
    local name=$1 log=$KEEP/$1.jsonl out=$KEEP/files
    shift
    "$TWINLINK_BIN" client --link-a rate-80 --link-b rate-80 "$@" --out "$out" --log "$log" server-a server-b >"$KEEP/stdout"
    check_folder "$name" "$out"
    rm -rf "$out"
    records run_end "$log" | jq -r .summary
    expect "$name: exit" "$(records run_end "$log" | jq -r .exit)" = ok
    expect "$name: segment records" "$(records segment "$log" | wc -l)" -eq 160
    expect "$name: faults" "$(records fault "$log" | wc -l)" -eq 0
    expect "$name: links used" "$(records segment "$log" | jq -s -r '[.[].link] | unique | join(" ")')" = "a b"
    # Both links may bring the end of a file, within the schedule's limit.
    expect "$name: share of bytes thrown away" "$(records run_end "$log" | jq '.wasted_bytes / .bytes')" -le 0.02
}

software() { # NAME LINK
    records run_start "$KEEP/$1.jsonl" | jq -r ".servers.$2.software"
}

# One value of curl's about an answer: status %{http_code}, header %header{x} and the like.
asked() { # FORMAT CURL-OPTIONS...
    local format=$1
    shift
    curl -sS -m 20 -o "$KEEP/body" -w "$format" "$@"
}

# A header of the last answer whose head was kept.
header() { sed -n "s/^$1: //Ip" "$KEEP/head" | tr -d '\r'; }

part_is() { # WHAT FROM BYTES: the body is that part of the file
    cmp --ignore-initial="$2:0" --bytes="$3" "$DATA/s001.m4s" "$KEEP/body" || fail "curl: $1 brought other bytes"
    expect "curl: bytes of $1" "$(stat -c %s "$KEEP/body")" -eq "$3"
}

# --- what runs in the client's namespace ---

with_curl() {
    local url=http://server-a:4455/s001.m4s size etag
    size=$(stat -c %s "$DATA/s001.m4s")
    expect "curl: status of a range" "$(asked '%{http_code}' -D "$KEEP/head" -r 100-299 "$url")" -eq 206
    expect "curl: its Content-Range" "$(header content-range)" = "bytes 100-299/$size"
    part_is "a range" 100 200
    expect "curl: status of a range to the end" "$(asked '%{http_code}' -r 1000- "$url")" -eq 206
    part_is "a range to the end" 1000 $((size - 1000))
    expect "curl: status of the last 500 bytes" "$(asked '%{http_code}' -D "$KEEP/head" -r -500 "$url")" -eq 206
    expect "curl: their Content-Range" "$(header content-range)" = "bytes $((size - 500))-$((size - 1))/$size"
    part_is "the last 500 bytes" $((size - 500)) 500
    expect "curl: status of a range behind the end" "$(asked '%{http_code}' -D "$KEEP/head" -r "$size-" "$url")" -eq 416
    expect "curl: its Content-Range" "$(header content-range)" = "bytes */$size"
    # curl takes up a file where an earlier download of it stopped.
    head -c 4321 "$DATA/s001.m4s" >"$KEEP/resumed"
    curl -sS -m 20 -C - -o "$KEEP/resumed" "$url"
    cmp "$KEEP/resumed" "$DATA/s001.m4s" || fail "curl -C -: the resumed file is another one"

    expect "curl: status of HEAD" "$(curl -sS -m 20 -I -o "$KEEP/head" -w '%{http_code}' "$url")" -eq 200
    expect "curl: Content-Length of HEAD" "$(header content-length)" -eq "$size"
    expect "curl: Accept-Ranges of HEAD" "$(header accept-ranges)" = bytes
    etag=$(header etag)
    expect "curl: status of If-Range with the ETag" "$(asked '%{http_code}' -r 100-299 -H "If-Range: $etag" "$url")" -eq 206
    part_is "If-Range with the ETag" 100 200
    expect "curl: status of If-Range with another ETag" "$(asked '%{http_code}' -r 100-299 -H 'If-Range: "other"' "$url")" -eq 200
    part_is "If-Range with another ETag" 0 "$size"
    expect "curl: status of If-None-Match with the ETag" "$(asked '%{http_code}' -H "If-None-Match: $etag" "$url")" -eq 304
    expect "curl: status of a missing file" "$(asked '%{http_code}' http://server-a:4455/none.m4s)" -eq 404

    expect "curl: new connections for each of two files" "$(curl -sS -m 20 -w '%{num_connects} ' \
        -o "$KEEP/one" "$url" -o "$KEEP/two" http://server-a:4455/s002.m4s)" = "1 0 "
    cmp "$KEEP/one" "$DATA/s001.m4s" || fail "curl: the first file of a kept connection is another one"
    cmp "$KEEP/two" "$DATA/s002.m4s" || fail "curl: the second file of a kept connection is another one"
    curl -sS -m 20 http://server-b:4455/SHA256SUMS | cmp - "$DATA/SHA256SUMS" || fail "curl: SHA256SUMS is another one"
}

# Each file is named at both servers, so that aria2c chooses.
with_aria2c() {
    local name
    while read -r _ name; do
        printf 'http://server-a:4455/%s\thttp://server-b:4455/%s\n' "$name" "$name"
    done <"$DATA/SHA256SUMS" >"$KEEP/aria2.txt"
    expect "aria2c: files asked for" "$(wc -l <"$KEEP/aria2.txt")" -eq 160
    aria2c --no-conf --quiet -j2 -s2 -x1 --input-file="$KEEP/aria2.txt" --dir="$KEEP/aria2"
    check_folder aria2c "$KEEP/aria2"
}

# Passes if the access log of a server says that it sent bytes of the large file.
sent_by() { # SERVER
    records request "$KEEP/served/server-$1.jsonl" | jq -se 'any(.target == "/large.bin" and .bytes > 0)'
}

# A file that is large enough for aria2c to split: it asks each server for a part of it.
with_aria2c_halves() {
    aria2c --no-conf --quiet -s2 -x1 --min-split-size=1M --dir="$KEEP/halves" \
        http://server-a:4455/large.bin http://server-b:4455/large.bin
    cmp "$KEEP/halves/large.bin" "$LARGE/large.bin" || fail "aria2c: a file that came in two parts is another one"
    # It asks one server for the whole, reads that only up to the middle, and the other for the rest.
    # A server writes its record once it sees that the connection has ended.
    local each
    for each in a b; do eventually 20 sent_by "$each"; done
    expect "aria2c: ranges that were sent" "$(cat "$KEEP"/served/server-{a,b}.jsonl | jq -s '[.[] | select(.event == "request" and .data.status == 206 and .data.bytes > 0)] | length')" -gt 0
}

with_two_nginx() {
    run_client nginx
    expect "nginx: software of a" "$(software nginx a | cut -d/ -f1)" = nginx
    expect "nginx: software of b" "$(software nginx b | cut -d/ -f1)" = nginx
    expect "nginx: HTTP version" "$(records run_start "$KEEP/nginx.jsonl" | jq -r .servers.a.http_version)" = 1.1
    # All that is fetched from a server comes on one connection.
    expect "nginx: connections to a" "$(records run_end "$KEEP/nginx.jsonl" | jq .links.a.connections)" -eq 1
    expect "nginx: segments whose digest is right" "$(records segment "$KEEP/nginx.jsonl" | jq -s 'map(select(.digest_ok == true)) | length')" -eq 160
    run_client nginx-ratio --schedule ratio=1:4
    expect "nginx-ratio: segments from b" "$(records segment "$KEEP/nginx-ratio.jsonl" | jq -s 'map(select(.link == "b")) | length')" -eq 128
}

# Python's server speaks HTTP/1.0: a connection for each file, and no ranges.
with_two_pythons() {
    run_client python
    expect "python: software of a" "$(software python a | cut -d/ -f1)" = SimpleHTTP
    expect "python: HTTP version" "$(records run_start "$KEEP/python.jsonl" | jq -r .servers.a.http_version)" = 1.0
    expect "python: connections" "$(records run_end "$KEEP/python.jsonl" | jq '.links.a.connections + .links.b.connections')" -ge 160
    expect "python: segments whose digest is right" "$(records segment "$KEEP/python.jsonl" | jq -s 'map(select(.digest_ok == true)) | length')" -eq 160
}

# Python's server once more, without the list: nothing can be checked, and the log says just that.
with_no_list() {
    run_client no-list
    expect "no-list: digests of a" "$(records run_start "$KEEP/no-list.jsonl" | jq .servers.a.digests)" = false
    expect "no-list: segments without a verdict" "$(records segment "$KEEP/no-list.jsonl" | jq -s 'map(select(.digest_ok == null)) | length')" -eq 160
}

with_nginx_and_ours() {
    run_client mixed
    expect "mixed: software of a" "$(software mixed a | cut -d/ -f1)" = twinlink
    expect "mixed: software of b" "$(software mixed b | cut -d/ -f1)" = nginx
    expect "mixed: segments whose digest is right" "$(records segment "$KEEP/mixed.jsonl" | jq -s 'map(select(.digest_ok == true)) | length')" -eq 160
}

if [ -n "${KEEP:-}" ]; then
    "$@"
    exit
fi

for program in curl aria2c wget2 lftp nginx python3; do
    have "$program" || fail "$program not found: run tests/setup/packages.sh peers"
done

DATA=$WORK/data LARGE=$WORK/large
export DATA LARGE
"$TWINLINK_BIN" segments "$DATA" >"$WORK/segments.out"
# A server of others need not run as root, and reads the set all the same.
chmod 755 "$WORK" "$DATA"
mkdir "$LARGE"
head -c 3000000 /dev/urandom >"$LARGE/large.bin"
chmod 644 "$LARGE/large.bin"

# As few directives as nginx starts with, and no file of its outside WORK. The name keeps two apart.
nginx_command() {
    cat >"$WORK/nginx.conf" <<NGINX
daemon off;
worker_processes 1;
error_log stderr;
pid $WORK/NAME.pid;
events {}
http {
    access_log off;
    client_body_temp_path $WORK/NAME.body;
    proxy_temp_path $WORK/NAME.proxy;
    fastcgi_temp_path $WORK/NAME.fastcgi;
    uwsgi_temp_path $WORK/NAME.uwsgi;
    scgi_temp_path $WORK/NAME.scgi;
    server {
        listen 4455;
        root $DATA;
    }
}
NGINX
    local name
    for name in server-a server-b; do
        sed "s/NAME/$name/" "$WORK/nginx.conf" >"$WORK/$name.conf"
    done
    printf 'nginx -e stderr -c %q/{NAME}.conf' "$WORK"
}
NGINX=$(nginx_command)
PYTHON='python3 -m http.server {PORT} --bind {ADDR} --directory {DATA}'
# Ours for a, nginx for b.
cat >"$WORK/mixed" <<EOT
case \$1 in
server-a) exec "$TWINLINK_BIN" server --data "$DATA" ;;
server-b) exec nginx -e stderr -c "$WORK/server-b.conf" ;;
esac
EOT

in_lab with_curl --data "$DATA"
in_lab with_aria2c --data "$DATA"
in_lab with_metalink --data "$DATA"
in_lab with_all_programs --data "$DATA"
in_lab with_aria2c_halves --data "$LARGE" --server-logs "$WORK/served"
in_lab with_two_nginx --data "$DATA" --server "$NGINX"
in_lab with_two_pythons --data "$DATA" --server "$PYTHON"
mkdir "$WORK/unlisted"
ln "$DATA"/*.m4s "$WORK/unlisted"
in_lab with_no_list --data "$WORK/unlisted" --server "$PYTHON"
in_lab with_nginx_and_ours --data "$DATA" --server "bash $WORK/mixed {NAME}"
