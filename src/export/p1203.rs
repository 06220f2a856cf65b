//! A run as the input of ITU-T P.1203 in mode 0, in the JSON that the implementation `itu-p1203` reads.
//!
//! The recommendation rates what a viewer sees: the bitrate of each segment (I.13, I.11), and when playback stood still
//! (I.23, in media time; the initial loading is a stall at 0). Bitrates are the sizes of the segments over the time
//! that each plays; pictures the log does not know, so that the caller says what they are.

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::LoggedRun;
use crate::qoe::is_media;

/// The pictures and the sound of the segments.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct P1203Media {
    /// Size of the pictures, pixels
    #[arg(long, default_value = "1920x1080", value_name = "WIDTHxHEIGHT", value_parser = resolution)]
    pub resolution: String,
    /// Pictures a second
    #[arg(long, default_value_t = 25.0, value_name = "FPS", value_parser = fps)]
    pub fps: f64,
    /// Bitrate of the sound (AAC-LC) that the segments carry too, kbit/s; 0 for none
    #[arg(long, default_value_t = 0, value_name = "KBIT")]
    pub audio_kbit: u32,
    /// Size of the viewer's display, pixels
    #[arg(long, default_value = "1920x1080", value_name = "WIDTHxHEIGHT", value_parser = resolution)]
    pub display: String,
    /// The viewer's device
    #[arg(long, default_value = "pc", value_parser = ["pc", "mobile"])]
    pub device: String,
}

fn resolution(text: &str) -> Result<String, String> {
    let sides = text.split_once('x').map(|(width, height)| (width.parse::<u32>(), height.parse::<u32>()));
    match sides {
        Some((Ok(1..=65_535), Ok(1..=65_535))) => Ok(text.into()),
        _ => Err("expected pixels as in 1920x1080".into()),
    }
}

fn fps(text: &str) -> Result<f64, String> {
    let fps = text.parse().ok().filter(|fps| (1.0..=1000.0).contains(fps));
    fps.ok_or_else(|| "expected pictures a second, 1 to 1000".into())
}

/// Renders the input.
///
/// # Errors
/// No segment came that could be played, or the sound is to have more than all bits of one.
pub(crate) fn render(run: &LoggedRun, kind: &P1203Media) -> Result<String> {
    input_of(run, kind).context("no segment came that could be played")?
}

fn input_of(run: &LoggedRun, kind: &P1203Media) -> Option<Result<String>> {
    let played = run.playback()?;
    let duration_s = played.qoe.segment_duration_ms / 1e3;
    let mut came: Vec<_> = run.segments.iter().collect();
    came.sort_by_key(|segment| segment.index);
    came.dedup_by_key(|segment| segment.index);
    // Playback ends before a segment that never came.
    let whole = (0..).zip(came).take_while(|(place, segment)| segment.index == *place);
    let media: Vec<_> = whole.map(|(_, segment)| segment).filter(|segment| is_media(&segment.name)).collect();
    let start = |place: usize| place as f64 * duration_s;
    let audio_kbit = f64::from(kind.audio_kbit);
    let kbit_of = |bytes: u64| bytes as f64 * 8.0 / 1e3 / duration_s;
    let least_kbit = media.iter().map(|segment| kbit_of(segment.bytes)).fold(f64::INFINITY, f64::min);
    if audio_kbit >= least_kbit {
        return Some(Err(anyhow!(
            "sound of {audio_kbit} kbit/s leaves nothing for the pictures of a segment of {least_kbit:.0} kbit/s: \
             give --audio-kbit less"
        )));
    }
    let video = media.iter().enumerate().map(|(place, segment)| {
        json!({
            "codec": "h264",
            "start": start(place),
            "duration": duration_s,
            "bitrate": kbit_of(segment.bytes) - audio_kbit,
            "resolution": kind.resolution,
            "fps": kind.fps,
        })
    });
    let audio = (0..media.len()).filter(|_| audio_kbit > 0.0).map(|place| {
        json!({"codec": "aaclc", "start": start(place), "duration": duration_s, "bitrate": audio_kbit})
    });
    let mut stalling = vec![[0.0, played.qoe.startup_delay_ms? / 1e3]];
    let begin_ms = run.first_request_ms()? + played.qoe.startup_delay_ms?;
    let mut stood_ms = 0.0;
    for stall in &played.stalls {
        stalling.push([(stall.from_ms - begin_ms - stood_ms) / 1e3, (stall.to_ms - stall.from_ms) / 1e3]);
        stood_ms += stall.to_ms - stall.from_ms;
    }
    let stream = |key: &str, list: Value| json!({key: list, "streamId": 1});
    let input = json!({
        "I11": stream("segments", audio.collect()),
        "I13": stream("segments", video.collect()),
        "I23": stream("stalling", json!(stalling)),
        "IGen": {"device": kind.device, "displaySize": kind.display, "viewingDistance": "150cm"},
    });
    Some(Ok(format!("{input:#}\n")))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{run, segment};
    use super::*;
    use crate::units::LinkId;

    fn media(audio_kbit: u32) -> P1203Media {
        let size = || "640x360".to_string();
        P1203Media { resolution: size(), fps: 25.0, audio_kbit, display: size(), device: "pc".into() }
    }

    fn input(run: &LoggedRun, audio_kbit: u32) -> Value {
        serde_json::from_str(&render(run, &media(audio_kbit)).unwrap()).unwrap()
    }

    #[test]
    fn bitrates_are_sizes_over_time_and_stalls_are_in_media_time() {
        let mut run = run();
        // The first two play from 200 to 2200 ms of the log; the third comes 800 ms late, the fourth 500.
        run.segments = [100.0, 200.0, 3000.0, 4500.0]
            .iter()
            .zip(0..)
            .map(|(&done, n)| segment(n, LinkId::A, 0.0, done))
            .collect();
        let input = input(&run, 28);
        assert_eq!(input["I23"]["stalling"], json!([[0.0, 0.2], [2.0, 0.8], [3.0, 0.5]]));
        let video = input["I13"]["segments"].as_array().unwrap();
        assert_eq!(video.len(), 4);
        assert_eq!((&video[2]["start"], &video[2]["duration"]), (&json!(2.0), &json!(1.0)));
        assert_eq!(video[2]["bitrate"], json!(1000.0 - 28.0));
        assert_eq!(
            input["I11"]["segments"][3],
            json!({"codec": "aaclc", "start": 3.0, "duration": 1.0, "bitrate": 28.0})
        );
    }

    #[test]
    fn media_ends_before_a_segment_that_never_came() {
        let mut run = run();
        run.segments = [0, 1, 3].map(|n| segment(n, LinkId::B, 0.0, 10.0)).into();
        assert_eq!(input(&run, 0)["I13"]["segments"].as_array().unwrap().len(), 2);
        assert_eq!(input(&run, 0)["I11"]["segments"], json!([]));
        run.segments.clear();
        assert!(render(&run, &media(0)).is_err());
    }
}
