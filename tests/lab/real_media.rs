//! The main job on real media: ffmpeg makes a clip, `server_data/from-video.sh` cuts it, the lab fetches the cut over rate-20
//! and rate-80, and the init segment with the fetched segments behind it decodes without an error into as many frames,
//! and the same pictures and sound, as the clip itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::{Log, Place, User, have, stdout_of, users, words};

const SECONDS: u32 = 60;
const FRAMES_PER_SECOND: u32 = 25;

fn ffmpeg(args: &[&str]) -> String {
    stdout_of(Command::new("ffmpeg").args(["-v", "error", "-nostdin"]).args(args))
}

fn frames(file: &str) -> String {
    let options = ["-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries"];
    stdout_of(Command::new("ffprobe").args(options).args(["stream=nb_read_frames", "-of", "csv=p=0", file]))
}

#[test]
fn fetched_video_plays_as_the_clip_itself() {
    if users().is_empty() || !have(&["ffmpeg", "ffprobe"]) {
        return;
    }
    let place = Place::new(User::Own);
    let [clip, cut, got, played, log] = ["clip.mp4", "work/cut", "work/got", "played.mp4", "work/log.jsonl"]
        .map(|name| place.path(name).display().to_string());
    // Small pictures, and a key frame a second, so that there is a segment a second.
    let pictures = format!("testsrc2=size=480x270:rate={FRAMES_PER_SECOND}:duration={SECONDS}");
    let sound = format!("sine=frequency=440:duration={SECONDS}");
    let sources = ["-f", "lavfi", "-i", &pictures, "-f", "lavfi", "-i", &sound];
    let codecs =
        ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25", "-c:a", "aac", &clip];
    ffmpeg(&[&sources[..], &codecs].concat());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("server_data/from-video.sh");
    stdout_of(Command::new("sh").arg(script).args([&clip, &cut]));
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.extension().is_some_and(|extension| extension == "m4s"));
        names.sort();
        names
    };
    let segments = names(&cut).len();
    assert!(segments >= 30);

    let options = ["--link-a", "rate-20", "--link-b", "rate-80", "--out", &got, "--log", &log];
    let output = place.run(&[&["--data", &cut, "--"], &options[..]].concat());
    assert!(output.status.success(), "{}", words(&output));
    let log = Log::read(Path::new(&log));
    assert_eq!(log.end()["exit"], "ok");
    log.expect_verified(segments + 1);
    assert!(["a", "b"].iter().all(|link| !log.of_link("segment", link).is_empty()));

    let mut whole = fs::read(format!("{got}/init.mp4")).unwrap();
    names(&got).iter().for_each(|segment| whole.extend(fs::read(segment).unwrap()));
    fs::write(&played, whole).unwrap();
    let decoded = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-nostdin", "-i", &played, "-f", "null", "-"])
        .output();
    assert_eq!(words(&decoded.unwrap()), "");
    assert_eq!(frames(&clip), (SECONDS * FRAMES_PER_SECOND).to_string());
    assert_eq!(frames(&played), frames(&clip));
    // Equal digests say more than equal counts. The sound is compared as it is coded: a fragmented MP4
    // does not say how much of an encoder's lead-in a player has to cut off, so decoded it is longer.
    let hash = |file: &str, stream: &[&str]| {
        ffmpeg(&[&["-i", file], stream, &["-f", "hash", "-hash", "sha256", "-"]].concat())
    };
    for stream in [&["-map", "0:v:0"][..], &["-map", "0:a:0", "-c", "copy"]] {
        assert_eq!(hash(&played, stream), hash(&clip, stream), "{stream:?}");
    }
}
