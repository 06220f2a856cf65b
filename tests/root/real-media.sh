#!/usr/bin/env bash
# The main job on real media: ffmpeg makes a clip, server_data/from-video.sh cuts it, the lab fetches
# the cut over rate-20 and rate-80, and the init segment with the fetched segments behind it decodes
# without an error into as many frames, and the same pictures and sound, as the clip itself.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary
for program in ffmpeg ffprobe; do
    have "$program" || fail "$program not found: run tests/setup/packages.sh peers"
done

SECONDS_LONG=60 FRAMES_PER_SECOND=25
CLIP=$WORK/clip.mp4 CUT=$WORK/cut GOT=$WORK/got PLAYED=$WORK/played.mp4 LOG=$WORK/log.jsonl

# Small pictures, and a key frame a second, so that there is a segment a second.
ffmpeg -v error -nostdin -f lavfi -i "testsrc2=size=480x270:rate=$FRAMES_PER_SECOND:duration=$SECONDS_LONG" \
    -f lavfi -i "sine=frequency=440:duration=$SECONDS_LONG" \
    -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g "$FRAMES_PER_SECOND" -c:a aac "$CLIP"
"$ROOT/server_data/from-video.sh" "$CLIP" "$CUT"
segments=$(find "$CUT" -name 's*.m4s' | wc -l)
expect "segments of the clip" "$segments" -ge 30

"$ROOT/netem/lab.sh" --data "$CUT" -- --link-a rate-20 --link-b rate-80 --out "$GOT" --log "$LOG" >"$WORK/stdout"
records run_end "$LOG" | jq -r .summary
expect "exit" "$(records run_end "$LOG" | jq -r .exit)" = ok
expect "files fetched, with the init segment" "$(records run_end "$LOG" | jq .files)" -eq $((segments + 1))
expect "files whose digest is right" "$(records segment "$LOG" | jq -s 'map(select(.digest_ok == true)) | length')" -eq $((segments + 1))
expect "links that brought segments" "$(records segment "$LOG" | jq -s -r '[.[].link] | unique | join(" ")')" = "a b"

cat "$GOT"/init.mp4 "$GOT"/s*.m4s >"$PLAYED"
ffmpeg -v error -xerror -nostdin -i "$PLAYED" -f null - 2>"$WORK/decoding"
expect "what ffmpeg complains about while it decodes" "$(cat "$WORK/decoding")" = ""

frames() { ffprobe -v error -count_frames -select_streams v:0 -show_entries stream=nb_read_frames -of csv=p=0 "$1"; }
in_clip=$(frames "$CLIP")
expect "frames of the clip" "$in_clip" -eq $((SECONDS_LONG * FRAMES_PER_SECOND))
expect "frames of what was fetched" "$(frames "$PLAYED")" -eq "$in_clip"

# Equal digests say more than equal counts. The sound is compared as it is coded: a fragmented MP4
# does not say how much of an encoder's lead-in a player has to cut off, so decoded it is longer.
pictures() { ffmpeg -v error -nostdin -i "$1" -map 0:v:0 -f hash -hash sha256 -; }
sound() { ffmpeg -v error -nostdin -i "$1" -map 0:a:0 -c copy -f hash -hash sha256 -; }
expect "pictures of what was fetched" "$(pictures "$PLAYED")" = "$(pictures "$CLIP")"
expect "sound of what was fetched" "$(sound "$PLAYED")" = "$(sound "$CLIP")"
