#!/bin/sh
# Cuts a video into at most 160 segments for the lab's servers: init.mp4, s001.m4s, s002.m4s, … and
# SHA256SUMS, which lists them in that order. Put together again, `cat init.mp4 s*.m4s`, they play.
# For HLS players: q1.m3u8, and master.m3u8, which names both servers.
#
#   from-video.sh [-q QUALITIES] VIDEO [OUT_DIR]     OUT_DIR is the folder of this script unless given
#
# The streams are copied as they are where an MP4 can hold them, and encoded anew (H.264, AAC) where
# it cannot. Segments begin at key frames, so a video with few of them gives few segments. With -q the sound
# is apart (audio-init.mp4, audio-s001.m4s, …), as DASH players want it, and manifest.mpd is there too; with 2
# or 3 QUALITIES all is encoded anew, the second of half the height (q2-init.mp4, q2-s001.m4s, …), the
# third of a quarter. $SERVERS holds the URLs of the servers: http://server-a:4455/ http://server-b:4455/ unless
# set. Nothing is ever overwritten, and OUT_DIR gets either the whole set or nothing.
set -eu

SERVERS=${SERVERS:-http://server-a:4455/ http://server-b:4455/}

MOST=160

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

qualities=0
if [ "${1-}" = -q ]; then
    qualities=${2-}
    case $qualities in 1 | 2 | 3) shift 2 ;; *) fail "QUALITIES is 1, 2 or 3, not '$qualities'" ;; esac
fi
case $# in 1 | 2) ;; *) fail "usage: from-video.sh [-q QUALITIES] VIDEO [OUT_DIR]" ;; esac
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
for there in "$out"/*.m4s "$out"/*init.mp4 "$out"/*.m3u8 "$out"/manifest.mpd "$out"/SHA256SUMS; do
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

# The pictures, and the sound where it is not apart.
pictures="-map 0:v:0"
[ "$qualities" != 0 ] || pictures="$pictures -map 0:a:0?"

# Cuts streams into files whose names begin with $1; $2 says which, the other arguments are ffmpeg's.
cut_with() {
    prefix=$1 maps=$2
    shift 2
    rm -f -- "$work/$prefix"s[0-9]*.m4s
    # shellcheck disable=SC2086 # words
    (cd "$work" && ffmpeg -v error -nostdin -i "$source" $maps "$@" \
        -f hls -hls_time "$seconds" -hls_list_size 0 -hls_playlist_type vod -hls_segment_type fmp4 \
        -hls_fmp4_init_filename "${prefix}init.mp4" -start_number 1 -hls_segment_filename "${prefix}s%03d.m4s" \
        "${prefix}list")
}

# Encodes one quality, of the height over $2.
encode_anew() {
    cut_with "$1" "$pictures" -c:v libx264 -pix_fmt yuv420p -c:a aac -vf "scale=-2:trunc(ih/$2/2)*2" \
        -force_key_frames "expr:gte(t,n_forced*$seconds)"
}

segments() {
    find "$work" -name 's[0-9]*.m4s' | wc -l
}

# A file that does not say how long it is mostly has no times in it either, and those are what a copy
# is cut by.
how=copied
case $duration in '' | N/A) how="encoded anew" ;; esac
[ "$qualities" -lt 2 ] || how="encoded anew"
while :; do
    if [ "$how" = copied ] && ! cut_with "" "$pictures" -c copy 2>/dev/null; then
        how="encoded anew"
    fi
    if [ "$how" != copied ]; then
        encode_anew "" 1 || fail "ffmpeg cannot cut $video: see what it says above"
    fi
    [ "$(segments)" -gt "$MOST" ] || break
    # It is longer than it said, if it said anything.
    seconds=$(awk -v s="$seconds" 'BEGIN { printf "%.3f", s * 2 }')
done
count=$(($(segments)))
[ "$count" -gt 0 ] || fail "ffmpeg made no segment of $video"

for quality in 2 3; do
    [ "$quality" -gt "$qualities" ] || encode_anew "q$quality-" $(((quality - 1) * 2)) ||
        fail "ffmpeg cannot encode $video: see what it says above"
done

audio=
if [ "$qualities" != 0 ] && [ -n "$(ffprobe -v error -select_streams a:0 -show_entries stream=index -of csv=p=0 "$source")" ]; then
    audio=mp4a.40.2
    cut_with audio- "-map 0:a:0" -c:a aac || fail "ffmpeg cannot cut the sound of $video: see what it says above"
fi

# A stream's entry: stream PREFIX v|a KEY.
stream() {
    ffprobe -v error -select_streams "$2:0" -show_entries "stream=$3" -of csv=p=0 "file:$work/$1init.mp4" | head -n 1
}

# The codecs of one quality (RFC 6381), or nothing where one of them is another than H.264 and AAC-LC.
codecs() {
    at=$(LC_ALL=C grep -abo avcC "$work/$1init.mp4" | head -n 1)
    [ -n "$at" ] || return 0
    # Behind the name of the box: a version, then the profile, its constraints and the level.
    video=avc1.$(od -An -tx1 -j "$((${at%%:*} + 5))" -N 3 "$work/$1init.mp4" | tr -d ' \n')
    case $(stream "$1" a codec_name) in
    aac) echo "$video,mp4a.40.2" ;;
    '') echo "$video" ;;
    esac
}

# The size of one quality's pictures.
size() {
    echo "$(stream "$1" v width)x$(stream "$1" v height)"
}

# The greatest rate of one quality's segments, bit/s.
bandwidth() {
    awk -F '[:,]' '/^#EXTINF/ { print $2 } /^[^#]/ { print }' "$work/$1list" | while read -r long && read -r name; do
        bytes=$(wc -c <"$work/$name")
        awk -v b="$bytes" -v s="$long" 'BEGIN { printf "%.0f\n", b * 8 / s }'
    done | sort -n | tail -n 1
}

# The multivariant playlist has each quality once for each server: redundant streams (RFC 8216, 4.3.4.2).
master() {
    printf '#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n'
    for server in ${audio:+$SERVERS}; do
        echo "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"$server\",NAME=\"sound\",DEFAULT=YES,AUTOSELECT=YES,URI=\"${server}audio.m3u8\""
    done
    each_quality | while read -r quality prefix; do
        codecs=$(codecs "$prefix")
        about="BANDWIDTH=$(bandwidth "$prefix"),RESOLUTION=$(size "$prefix")${codecs:+,CODECS=\"$codecs${audio:+,$audio}\"}"
        for server in $SERVERS; do
            echo "#EXT-X-STREAM-INF:$about${audio:+,AUDIO=\"$server\"}"
            echo "$server$quality.m3u8"
        done
    done
}

# Lines of a quality's name and the prefix of its files.
each_quality() {
    echo "q1 "
    [ "$qualities" -lt 2 ] || echo "q2 q2-"
    [ "$qualities" -lt 3 ] || echo "q3 q3-"
}

each_playlist() {
    each_quality
    [ -z "$audio" ] || echo "audio audio-"
}

# Each segment's time (us), as its playlist has it.
timeline() {
    awk -F '[:,]' '/^#EXTINF/ { printf "          <S d=\"%.0f\"/>\n", $2 * 1e6 }' "$work/$1list"
}

dash() {
    length=$(awk -F '[:,]' '/^#EXTINF/ { s += $2 } END { printf "%.6f", s }' "$work/list")
    cat <<END
<?xml version="1.0" encoding="UTF-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" profiles="urn:mpeg:dash:profile:isoff-live:2011"
     minBufferTime="PT${seconds}S" mediaPresentationDuration="PT${length}S">
END
    for server in $SERVERS; do
        echo "  <BaseURL>$server</BaseURL>"
    done
    echo '  <Period id="1" start="PT0S">'
    echo '    <AdaptationSet contentType="video" mimeType="video/mp4" segmentAlignment="true" startWithSAP="1">'
    each_quality | while read -r quality prefix; do
        size=$(size "$prefix")
        representation "$quality" "$prefix" "$(codecs "$prefix")" " width=\"${size%x*}\" height=\"${size#*x}\""
    done
    if [ -n "$audio" ]; then
        echo '    </AdaptationSet>'
        echo '    <AdaptationSet contentType="audio" mimeType="audio/mp4" segmentAlignment="true" startWithSAP="1">'
        representation audio audio- "$audio" " audioSamplingRate=\"$(stream audio- a sample_rate)\""
    fi
    printf '    </AdaptationSet>\n  </Period>\n</MPD>\n'
}

# representation NAME PREFIX CODECS ATTRIBUTES
representation() {
    cat <<END
      <Representation id="$1" bandwidth="$(bandwidth "$2")"${3:+ codecs=\"$3\"}$4>
        <SegmentTemplate timescale="1000000" startNumber="1" initialization="$2init.mp4" media="$2s\$Number%03d\$.m4s">
          <SegmentTimeline>
$(timeline "$2")
          </SegmentTimeline>
        </SegmentTemplate>
      </Representation>
END
}

master >"$work/master.m3u8"
[ "$qualities" = 0 ] || dash >"$work/manifest.mpd"
each_playlist | while read -r quality prefix; do
    mv "$work/${prefix}list" "$work/$quality.m3u8"
done
(
    cd "$work" && chmod 644 ./*
    each_playlist | while read -r _ prefix; do
        digests "${prefix}init.mp4" "${prefix}"s[0-9]*.m4s
    done >SHA256SUMS && chmod 644 SHA256SUMS
)
mv -- "$work"/* "$out"/
mean=$(awk -F '[:,]' '/^#EXTINF/ { s += $2; n++ } END { printf "%.3f", s / n }' "$out/q1.m3u8")
echo "$count segments and init.mp4, streams $how, in $out; for the quality for a viewer: --segment-duration ${mean}s"
