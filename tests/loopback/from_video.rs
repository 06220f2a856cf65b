//! `server_data/from-video.sh`, on a clip that ffmpeg makes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::have;

fn cut(video: &Path, out: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("server_data/from-video.sh");
    Command::new("sh").arg(script).args([video, out]).output().unwrap()
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| {
        panic!("cannot run {program}, which this test needs (install ffmpeg): {error}")
    });
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stderr, b"", "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A clip of 20 s, 25 frames a second, with sound.
fn clip(path: &Path, codecs: &[&str]) {
    let sources = ["-v", "error", "-f", "lavfi", "-i", "testsrc=size=160x90:rate=25", "-f", "lavfi", "-i"];
    let mut args = [&sources[..], &["sine", "-t", "20", "-g", "25"], codecs].concat();
    args.push(path.to_str().unwrap());
    run("ffmpeg", &args);
}

fn frames(path: &Path) -> String {
    let count = ["-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries"];
    let args = [&count[..], &["stream=nb_read_frames", "-of", "csv=p=0", path.to_str().unwrap()]].concat();
    run("ffprobe", &args)
}

#[test]
fn the_pieces_of_a_video_make_up_the_video() {
    if !have(&["ffmpeg", "ffprobe"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, codecs) in [
        ("a clip: 100%d.mp4", &["-c:v", "libx264", "-c:a", "aac"]),
        ("clip.webm", &["-c:v", "libvpx", "-c:a", "libvorbis"]),
    ] {
        let video = dir.path().join(name);
        clip(&video, codecs);
        let out = dir.path().join(format!("cut {name}"));
        let output = cut(&video, &out);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sums = fs::read_to_string(out.join("SHA256SUMS")).unwrap();
        let listed: Vec<&str> = sums.lines().map(|line| &line[66..]).collect();
        let expected: Vec<String> = (1..=20).map(|n| format!("s{n:03}.m4s")).collect();
        assert_eq!(
            (listed[0], &listed[1..]),
            ("init.mp4", &expected.iter().map(String::as_str).collect::<Vec<_>>()[..])
        );
        assert_eq!(fs::read_dir(&out).unwrap().count(), 24, "something was left behind");
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(
            read("q1.m3u8").lines().filter(|line| line.ends_with(".m4s")).collect::<Vec<_>>(),
            expected
        );
        let master = read("master.m3u8");
        let urls: Vec<&str> = master.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(urls, ["http://server-a:4455/q1.m3u8", "http://server-b:4455/q1.m3u8"]);
        let whole: Vec<u8> = listed.iter().flat_map(|name| fs::read(out.join(name)).unwrap()).collect();
        let joined = dir.path().join("joined.mp4");
        fs::write(&joined, whole).unwrap();
        assert_eq!(frames(&joined), "500\n");
        assert_eq!(frames(&video), "500\n");
        run("ffmpeg", &["-v", "error", "-xerror", "-i", joined.to_str().unwrap(), "-f", "null", "-"]);
    }
}

#[test]
fn qualities_are_cut_alike_and_both_playlists_name_them() {
    if !have(&["ffmpeg", "ffprobe"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (video, out) = (dir.path().join("clip.mp4"), dir.path().join("cut"));
    clip(&video, &["-c:v", "libx264", "-c:a", "aac"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("server_data/from-video.sh");
    let servers = "http://one.example/ http://two.example/";
    let mut command = Command::new("sh");
    let output =
        command.arg(script).args(["-q", "3"]).args([&video, &out]).env("SERVERS", servers).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let times =
        |name: &str| read(name).lines().filter(|line| line.starts_with("#EXTINF")).collect::<String>();
    assert_eq!(times("q1.m3u8").matches("#EXTINF").count(), 20);
    assert_eq!([times("q2.m3u8"), times("q3.m3u8")], [times("q1.m3u8"), times("q1.m3u8")]);
    let (master, mpd) = (read("master.m3u8"), read("manifest.mpd"));
    for (quality, size, heights) in [
        ("q1", "160x90", "height=\"90\""),
        ("q2", "78x44", "height=\"44\""),
        ("q3", "40x22", "height=\"22\""),
    ] {
        assert!(mpd.contains(&format!("id=\"{quality}\"")) && mpd.contains(heights), "{mpd}");
        assert_eq!(master.matches(&format!("RESOLUTION={size},CODECS=\"avc1.")).count(), 2, "{master}");
        assert!(master.contains(&format!("http://two.example/{quality}.m3u8")), "{master}");
    }
    assert!(
        mpd.contains("<BaseURL>http://one.example/</BaseURL>\n  <BaseURL>http://two.example/</BaseURL>"),
        "{mpd}"
    );
    assert!(
        mpd.contains("contentType=\"audio\"") && master.contains("URI=\"http://two.example/audio.m3u8\"")
    );
    let listed = read("SHA256SUMS");
    assert!(
        !listed.contains("m3u8") && listed.contains("  q3-s020.m4s") && listed.contains("  audio-init.mp4"),
        "{listed}"
    );
    // ffmpeg reads the cut of each quality, pictures alone.
    for playlist in ["q1.m3u8", "q2.m3u8", "q3.m3u8"] {
        assert_eq!(frames(&out.join(playlist)).lines().next(), Some("500"));
    }
}

#[test]
fn mistakes_leave_everything_as_it_was() {
    if !have(&["ffmpeg"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let video = dir.path().join("clip.mp4");
    clip(&video, &["-c:v", "libx264", "-c:a", "aac"]);
    let text = dir.path().join("text.mp4");
    fs::write(&text, "no video").unwrap();
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("s001.m4s"), "a user's own").unwrap();
    let fresh = dir.path().join("fresh");
    for (video, out, expected) in [
        (&dir.path().join("missing.mp4"), &fresh, "missing.mp4 not found"),
        (&text, &fresh, "is not a video that ffmpeg can read"),
        (&video, &taken, "holds s001.m4s already"),
        (&video, &dir.path().to_path_buf(), "would be served as a whole too"),
    ] {
        let output = cut(video, out);
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("error: ") && message.contains(expected), "{message}");
    }
    assert!(!fresh.exists());
    assert_eq!(fs::read_to_string(taken.join("s001.m4s")).unwrap(), "a user's own");
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}
