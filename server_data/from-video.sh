#!/bin/sh
# Cuts a video into at most 160 segments for the lab's servers: init.mp4, s001.m4s, s002.m4s, … and
# SHA256SUMS, which lists them in that order. Put together again, `cat init.mp4 s*.m4s`, they play.
#
#   from-video.sh VIDEO [OUT_DIR]          OUT_DIR is the folder of this script unless given
#
# The streams are copied as they are where an MP4 can hold them, and encoded anew (H.264, AAC) where
# it cannot. Segments begin at key frames, so a video with few of them gives few segments. Nothing is
# ever overwritten, and OUT_DIR gets either the whole set or nothing.
set -eu

MOST=160

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

case $# in 1 | 2) ;; *) fail "usage: from-video.sh VIDEO [OUT_DIR]" ;; esac
video=$1
out=${2:-$(dirname -- "$0")}

for tool in ffmpeg ffprobe; do
    command -v "$tool" >/dev/null || fail "$tool is missing: install ffmpeg, which brings it along"
done
if command -v sha256sum >/dev/null; then
    digests() { sha256sum "$@"; }
else
    command -v shasum >/dev/null || fail "sha256sum is missing, and so is shasum: install one of them"
    digests() { shasum -a 256 "$@"; }
fi

[ -e "$video" ] || fail "$video not found"
[ -f "$video" ] || fail "$video is not a file"
[ -r "$video" ] || fail "$video cannot be read: check its permissions"
# With its protocol named, a file name cannot be taken for an option or a URL.
folder=$(cd -- "$(dirname -- "$video")" && pwd -P)
source="file:$folder/$(basename -- "$video")"
codec=$(ffprobe -v error -select_streams v:0 -show_entries stream=codec_name -of csv=p=0 "$source" 2>/dev/null) ||
    fail "$video is not a video that ffmpeg can read"
[ -n "$codec" ] || fail "$video holds no video stream"

if [ ! -d "$out" ]; then
    mkdir -p -- "$out" || fail "cannot create the folder $out"
    chmod 755 "$out"
fi
out=$(cd -- "$out" && pwd -P)
for there in "$out"/*.m4s "$out"/init.mp4 "$out"/SHA256SUMS; do
    [ ! -e "$there" ] || fail "$out holds $(basename -- "$there") already: remove the old set or name another folder"
done
[ "$folder" != "$out" ] ||
    fail "$video lies in $out, where it would be served as a whole too: move it elsewhere first"

work=$(mktemp -d "$out/.from-video.XXXXXX") || fail "cannot write to $out"
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Seconds a segment: what gives a few less than the most, but no less than one.
duration=$(ffprobe -v error -show_entries format=duration -of csv=p=0 "$source" 2>/dev/null || true)
seconds=$(awk -v d="$duration" -v most="$MOST" 'BEGIN { s = d / (most - 4); printf "%.3f", s < 1 ? 1 : s }')

cut_with() {
    rm -f -- "$work"/*
    (cd "$work" && ffmpeg -v error -nostdin -i "$source" -map 0:v:0 -map '0:a:0?' "$@" \
        -f hls -hls_time "$seconds" -hls_list_size 0 -hls_playlist_type vod -hls_segment_type fmp4 \
        -hls_fmp4_init_filename init.mp4 -start_number 1 -hls_segment_filename 's%03d.m4s' list.m3u8)
}

encode_anew() {
    cut_with -c:v libx264 -pix_fmt yuv420p -c:a aac -force_key_frames "expr:gte(t,n_forced*$seconds)"
}

segments() {
    find "$work" -name 's*.m4s' | wc -l
}

# A file that does not say how long it is mostly has no times in it either, and those are what a copy
# is cut by.
how=copied
case $duration in '' | N/A) how="encoded anew" ;; esac
while :; do
    if [ "$how" = copied ] && ! cut_with -c copy 2>/dev/null; then
        how="encoded anew"
    fi
    if [ "$how" != copied ]; then
        encode_anew || fail "ffmpeg cannot cut $video: see what it says above"
    fi
    [ "$(segments)" -gt "$MOST" ] || break
    # It is longer than it said, if it said anything.
    seconds=$(awk -v s="$seconds" 'BEGIN { printf "%.3f", s * 2 }')
done
count=$(($(segments)))
[ "$count" -gt 0 ] || fail "ffmpeg made no segment of $video"

(cd "$work" && rm -f list.m3u8 && chmod 644 ./* && digests init.mp4 s*.m4s >SHA256SUMS && chmod 644 SHA256SUMS)
mv -- "$work"/* "$out"/
echo "$count segments of $seconds s or more and init.mp4, streams $how, in $out"
