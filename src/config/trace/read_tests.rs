use std::fmt::Write;

use proptest::prelude::*;

use crate::config::trace::MOST_STEPS;
use crate::config::trace::read::*;
use crate::units::{Delay, Percent};

const S: Nanos = 1_000_000_000;

fn one(text: &str, step: Option<Nanos>) -> Steps {
    match read(text.as_bytes(), Format::Auto, step, None).unwrap() {
        ParsedTrace::One(steps) => steps,
        both => panic!("{both:?}"),
    }
}

fn error(text: &[u8]) -> String {
    read(text, Format::Auto, None, None).unwrap_err()
}

/// Times in ms and rates in kbit/s.
fn rows(steps: &Steps) -> Vec<(u64, f64)> {
    steps.steps.iter().map(|step| (step.at / MS, step.rate.kbit())).collect()
}

#[test]
fn pairs_begin_at_their_first_time_and_end_with_a_last_row_as_long_as_the_one_before() {
    let steps = one("# seconds, Mbit/s\n10.0 4\n10.5\t4.0\n11,0\n13 1.5\n", None);
    assert_eq!(rows(&steps), [(0, 4000.0), (1000, 0.0), (3000, 1500.0)]);
    assert_eq!(steps.length, 5 * S);
    let averaged = one("0 4\n1 0\n2 8\n", Some(2 * S));
    assert_eq!(rows(&averaged), [(0, 2000.0), (2000, 8000.0)]);
    assert_eq!(averaged.length, 3 * S);
}

#[test]
fn mahimahi_counts_packets_of_a_frame_and_ends_at_its_last_millisecond() {
    let mut text = String::new();
    // One packet a millisecond for 0.1 s, nothing for 0.1 s, two a millisecond for 0.1 s.
    (1..=100).for_each(|ms| writeln!(text, "{ms}").unwrap());
    (201..=300).for_each(|ms| writeln!(text, "{ms}\n{ms}").unwrap());
    let steps = one(&text, None);
    assert_eq!(rows(&steps), [(0, 12112.0), (100, 0.0), (200, 24224.0)]);
    assert_eq!(steps.length, 300 * MS);
    // The usual way to say 12 Mbit/s for ever.
    assert_eq!(rows(&one("1\n", None)), [(0, 12112.0)]);
    assert_eq!(one("1\n", None).length, 100 * MS);
}

#[test]
fn the_lab_s_own_columns_have_units() {
    let steps = one("rate,time,loss,delay\n12mbit,0,1%,30ms\n0,1,0%,40ms\n0.0mbit,1.5,0%,40ms\n", None);
    assert_eq!(rows(&steps), [(0, 12000.0), (1000, 0.0)]);
    assert_eq!(steps.steps[0].delay, Some(Delay::from_millis(30)));
    assert_eq!(steps.steps[1].loss, Some(Percent::ZERO));
    assert_eq!(steps.length, 2 * S);
}

#[test]
fn the_public_sets_have_both_ways_and_gaps() {
    let text = "Timestamp,Longitude,State,DL_bitrate,UL_bitrate,RSRP\n\
        2018.01.18_23.59.58,1.1,D,-,10,-90\n2018.01.18_23.59.59,1.1,D,1000,-,-90\n\
        2018.01.18_23.59.59,1.1,D,2000,20,-90\n2018.01.19_00.00.02,1.1,D,-,0,-\n";
    let ParsedTrace::Both { down, up } = read(text.as_bytes(), Format::Auto, None, None).unwrap() else {
        panic!()
    };
    assert_eq!(rows(&down), [(0, 0.0), (1000, 2000.0)]);
    assert_eq!(rows(&up), [(0, 10.0), (1000, 20.0), (4000, 0.0)]);
    assert_eq!((down.length, up.length), (7 * S, 7 * S));
}

#[test]
fn a_header_may_be_in_any_case() {
    for header in ["time,rate,delay", "Time,Rate,Delay", "\"TIME\", \"RATE\", \"DELAY\""] {
        let found = one(&format!("{header}\n0,1mbit,5ms\n1,2mbit,6ms\n"), None);
        assert_eq!(rows(&found), [(0, 1000.0), (1000, 2000.0)], "{header}");
    }
}

#[test]
fn what_is_no_trace_is_not_quoted() {
    let secrets = [
        "hunter2secret\n",
        "root:hunter2secret:1\n",
        "user,hunter2secret\n",
        "1234\nhunter2secret\n",
        "1 2\nhunter2secret 3\n",
        "12 hunter2secret\n",
        "-----BEGIN hunter2secret-----\n",
    ];
    for text in secrets {
        for format in [Format::Auto, Format::Mahimahi, Format::Pairs, Format::Csv] {
            let error = read(text.as_bytes(), format, None, None).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

#[test]
fn a_file_that_is_no_trace_is_told_by_its_line() {
    let mut fine = String::new();
    (0..20).for_each(|row| writeln!(fine, "{} {row}", f64::from(row) * 0.003).unwrap());
    let mut long = String::from("0 1\n");
    (1..=MOST_STEPS + 2).for_each(|row| writeln!(long, "{row} {}", row % 7 + 1).unwrap());
    let cases: Vec<(&[u8], &str)> = vec![
        (b"", "it is empty"),
        (b"\n# nothing\n\n", "it is empty"),
        (b"time,rate\n", "it is empty"),
        (b"0 1\n2 1\n1 1\n", "line 3: 1 s comes after 2 s: times must rise"),
        (b"0 1\n0 1\n", "line 2: 0 s comes after 0 s"),
        (b"5\n4\n", "line 2: 4 ms comes after 5 ms"),
        (b"0\n0\n", "it ends at 0 ms"),
        (b"0 1\n1 -2\n", "line 2: \"-2\" is negative"),
        (b"-1 1\n", "line 1: \"-1\" is negative"),
        (b"0 1\n1 nan\n", "line 2: the text is not a rate in Mbit/s"),
        (b"0 1\n1 99999\n", "99999 Mbit/s is out of range"),
        (b"0 1\n1\n", "line 2: \"1\" is not two numbers"),
        (b"1\n2 3\n", "line 2: \"2 3\" is not a millisecond"),
        (b"\x7fELF\0\0\0\n", "line 1: bytes that are not UTF-8"),
        (b"0 1\n\xff\xfe 1\n", "line 2: bytes that are not UTF-8"),
        (&[b'7'; 5000], "line 1: more than 4096 bytes"),
        (b"hello\n", "line 1: this is not a trace"),
        (b"time,rate,colour\n0,1mbit,red\n", "line 1: unknown column \"colour\""),
        (b"time,delay\n0,1ms\n", "line 1: a column is missing"),
        (b"time,rate\n0,20\n", "line 2: \"20\" has no unit"),
        (b"time,rate\n0\n", "line 2: only 1 columns"),
        (b"time,rate,loss\n0,1mbit,100%\n", "lets nothing pass"),
        (b"time,rate,delay\n0,1mbit,61s\n", "a delay of 61s is out of range"),
        (b"DL_bitrate,UL_bitrate\n1,x\n", "line 2: the text is not a rate in kbit/s"),
        (fine.as_bytes(), "line 2: a step of 3 ms is too fine"),
        (long.as_bytes(), "more than 50000 steps"),
    ];
    for (text, expected) in cases {
        let error = error(text);
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
        assert!(!error.contains('\n'), "{error:?} is more than one line");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&text[..], Format::Auto, None, None);
    }

    #[test]
    fn nor_does_what_looks_like_a_trace(text in "(time,rate\n|DL_bitrate,UL_bitrate\n)?([0-9]{1,12}[ ,.\n-]{0,2}|1e30|mbit|%|ms){0,40}") {
        for step in [None, Some(10_000_000), Some(S)] {
            let _ = read(text.as_bytes(), Format::Auto, step, None);
        }
    }

    /// Averaging keeps the number of bits, whatever the length of the steps.
    #[test]
    fn averaging_mahimahi_loses_no_packet(
        gaps in prop::collection::vec(0u64..40, 1..400), step_ms in 10u64..2000,
    ) {
        let mut at = 1;
        let mut text = String::new();
        for gap in &gaps {
            at += gap;
            writeln!(text, "{at}").unwrap();
        }
        let steps = one(&text, Some(step_ms * MS));
        let ends = steps.steps.iter().skip(1).map(|step| step.at).chain([steps.length]);
        let bits: f64 = steps.steps.iter().zip(ends)
            .map(|(step, end)| step.rate.bits_per_s() as f64 * (end - step.at) as f64 / 1e9).sum();
        let lone = steps.steps.len() == 1;
        let expected = (gaps.len() as u64 * FRAME * 8) as f64 * if lone { steps.length as f64 / (at * MS) as f64 } else { 1.0 };
        // A step with less than 8 kbit/s counts as an outage.
        let slack = 8_000.0 * steps.length as f64 / 1e9 + steps.steps.len() as f64;
        prop_assert!((bits - expected).abs() <= slack, "{bits} instead of {expected}");
    }

    #[test]
    fn averaging_pairs_keeps_the_mean(
        rates in prop::collection::vec(0u64..50, 2..60), step_ms in 10u64..5000,
    ) {
        let mut text = String::new();
        for (second, rate) in rates.iter().enumerate() {
            writeln!(text, "{second} {rate}").unwrap();
        }
        let mean = |steps: &Steps| {
            let ends = steps.steps.iter().skip(1).map(|step| step.at).chain([steps.length]);
            steps.steps.iter().zip(ends).map(|(s, end)| s.rate.mbit() * (end - s.at) as f64).sum::<f64>()
        };
        let (plain, averaged) = (one(&text, None), one(&text, Some(step_ms * MS)));
        let off = (mean(&plain) - mean(&averaged)).abs() / plain.length as f64;
        prop_assert!(plain.length == averaged.length || averaged.steps.len() == 1);
        prop_assert!(off < 0.01 || averaged.steps.len() == 1, "{off} Mbit/s");
    }
}

#[test]
fn units_are_refused_where_the_file_says_its_own() {
    for text in ["1\n2\n300\n", "at_s,rate_kbit\n0,500\n1,900\n"] {
        let refused = read(text.as_bytes(), Format::Auto, None, Some(TraceUnit::Bytes)).unwrap_err();
        assert!(refused.contains("leave units out"), "{refused}");
    }
    assert!(read("0 500\n1 900\n".as_bytes(), Format::Auto, None, Some(TraceUnit::Bytes)).is_ok());
}
