//! Real players over the lab's links: a clip that ffmpeg makes, cut by `server_data/from-video.sh`, plays to its end in ffmpeg,
//! mpv, GStreamer and, with Video.js in a headless Chromium, from HLS and from DASH; `twinlink run` rates what they tell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;

use crate::fixture::{Log, Place, User, have, number, stdout_of, users, words};

const VIDEO_JS: &str = "js.videojs-7.5.5";

fn in_tree(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Makes 4 s of moving pictures and sound, and cuts them in two qualities.
fn media(place: &Place) -> String {
    let (clip, cut) = (place.path("clip.mp4"), place.path("cut"));
    let sources = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-f", "lavfi", "-i", "sine"];
    let codecs = [
        "-t",
        "4",
        "-g",
        "25",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
    ];
    stdout_of(Command::new("ffmpeg").args(["-v", "error", "-nostdin"]).args(sources).args(codecs).arg(&clip));
    stdout_of(
        Command::new("sh").arg(in_tree("server_data/from-video.sh")).args(["-q", "2"]).args([&clip, &cut]),
    );
    cut.to_str().unwrap().into()
}

/// Fetches Video.js, once, and returns its file; none where no registry answers, which CI takes for a failure.
fn video_js() -> Option<PathBuf> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap();
    let folder = in_tree("target/videojs");
    let file = folder.join(VIDEO_JS).join("js/videojs/resources/video.min.js");
    if !file.is_file() {
        fs::create_dir_all(&folder).unwrap();
        let pip = ["-m", "pip", "download", "-q", "--no-deps", "-d", ".", "js-videojs==7.5.5"];
        let fetched = Command::new("python3").args(pip).current_dir(&folder).output().unwrap();
        if !fetched.status.success() {
            assert!(std::env::var_os("CI").is_none(), "cannot fetch Video.js: {}", words(&fetched));
            println!("NOT RUN: cannot fetch Video.js with pip: {}", words(&fetched));
            return None;
        }
        stdout_of(Command::new("tar").args(["-xzf", &format!("{VIDEO_JS}.tar.gz")]).current_dir(&folder));
    }
    Some(file)
}

/// Plays a playlist of server a's over links, and returns the run's last record, which must say that it went well.
fn play(player: &str, playlist: &str, links: [&str; 2], video_js: Option<&Path>) -> Value {
    let place = Place::new(User::Own);
    let data = media(&place);
    let (program, script) = (place.program.to_str().unwrap(), in_tree("examples/player/play"));
    let url = format!("http://{{server_a}}/{playlist}");
    let lab = ["--data", &data, "--exec", program, "run", "--link-a", links[0], "--link-b", links[1]];
    let rest =
        ["--segment-duration", "1s", "--results", "results", "--", script.to_str().unwrap(), player, &url];
    let mut command = place.lab(&[&lab[..], &rest].concat());
    let output = command.env("VIDEOJS", video_js.unwrap_or(Path::new(""))).output().unwrap();
    let folder = fs::read_dir(place.path("work/results")).unwrap().next().unwrap().unwrap().path();
    let printed = fs::read_to_string(folder.join("stderr.txt")).unwrap();
    assert!(output.status.success(), "{player} {playlist}: {}\n{printed}", words(&output));
    let log = Log::read(&folder.join("log.jsonl"));
    let left = |fault: &&Value| fault["what"].as_str().unwrap().starts_with("the program left");
    assert_eq!(log.of("fault").into_iter().find(left), None, "a player that has ended leaves no process");
    let end = log.end().clone();
    assert_eq!(end["exit"], "ok", "{end}");
    place.expect_nothing_left();
    end
}

/// Expects a player that began, and played the clip's 4 s at its own pace.
fn expect_played(player: &str, playlist: &str, video_js: Option<&Path>) {
    let end = play(player, playlist, ["rate-20", "rate-80"], video_js);
    let qoe = &end["qoe"];
    assert!(number(&qoe["startup_delay_ms"]) > 0.0, "{player} {playlist}: {qoe}");
    // All of the media in one quality at least: 4 segments of pictures and as many of sound, and what begins both.
    assert!(end["files"].as_u64() >= Some(10), "{player} {playlist}: {end}");
    assert!(number(&end["program"]["took_ms"]) > 4000.0, "{player} {playlist}: {end}");
    println!("{player} {playlist}: {qoe}");
}

#[test]
fn ffmpeg_plays_dash_and_hls() {
    if !users().is_empty() && have(&["ffmpeg", "ffprobe", "python3"]) {
        ["manifest.mpd", "master.m3u8"].iter().for_each(|playlist| expect_played("ffmpeg", playlist, None));
    }
}

#[test]
fn mpv_plays_dash() {
    if !users().is_empty() && have(&["ffmpeg", "ffprobe", "python3", "mpv"]) {
        expect_played("mpv", "manifest.mpd", None);
    }
}

#[test]
fn gstreamer_plays_dash_and_hls() {
    if !users().is_empty() && have(&["ffmpeg", "ffprobe", "python3", "gst-launch-1.0"]) {
        ["manifest.mpd", "master.m3u8"]
            .iter()
            .for_each(|playlist| expect_played("gstreamer", playlist, None));
    }
}

#[test]
fn video_js_plays_dash_and_hls_from_another_origin() {
    if users().is_empty() || !have(&["ffmpeg", "ffprobe", "python3", "chromium"]) {
        return;
    }
    let Some(video_js) = video_js() else { return };
    ["manifest.mpd", "master.m3u8"]
        .iter()
        .for_each(|playlist| expect_played("browser", playlist, Some(&video_js)));
}

#[test]
fn player_that_runs_dry_is_rated_with_its_stalls() {
    if users().is_empty() || !have(&["ffmpeg", "ffprobe", "python3", "mpv"]) {
        return;
    }
    // The larger quality and its sound are about 400 kbit/s.
    let place = Place::new(User::Own);
    let slow = place.path("slow.toml");
    let way = "rate = \"150kbit\"\ndelay = \"20ms\"\nqueue = \"500ms\"\n";
    fs::write(&slow, format!("description = \"too slow for the clip\"\n[down]\n{way}[up]\n{way}")).unwrap();
    let slow = slow.to_str().unwrap();
    let qoe = &play("mpv", "q1.m3u8", [slow, slow], None)["qoe"];
    assert!(number(&qoe["rebuffer_ms"]) > 500.0 && qoe["rebuffer_count"].as_u64() >= Some(1), "{qoe}");
}
