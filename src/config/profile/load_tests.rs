use crate::config::profile::Queue;
use crate::config::profile::load::*;

fn error(text: &str) -> String {
    let source = FileSource::File("x.toml".into());
    format!("{:#}", parse("x", text, &source, LinkId::A).unwrap_err())
}

/// A valid profile whose [down] has the given lines.
fn with_down(lines: &str) -> String {
    format!("description = \"d\"\n[down]\n{lines}\n[up]\nrate = \"1mbit\"\nqueue = \"100ms\"\n")
}

#[test]
fn what_is_built_in_is_what_the_folder_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let traces =
        std::fs::read_dir(root.join("netem/traces")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut traces: Vec<String> = traces.map(|name| name.into_string().unwrap()).collect();
    traces.retain(|name| name.ends_with(".csv"));
    traces.sort();
    let mut known: Vec<&str> = crate::config::trace::load::BUILT_IN.iter().map(|(name, _)| *name).collect();
    known.sort();
    assert_eq!(traces, known);
    let folder = root.join("netem/profiles");
    let there = PROFILES.own_names(&[folder]);
    let mut built_in: Vec<String> = BUILT_IN.iter().map(|(name, _)| name.to_string()).collect();
    built_in.sort();
    assert!(there.len() >= 16, "only {} profiles found", there.len());
    assert_eq!(built_in, there);
}

#[test]
fn every_built_in_profile_is_valid() {
    for (name, text) in BUILT_IN {
        let profile = parse(name, text, &FileSource::BuiltIn, LinkId::A).unwrap();
        assert_eq!(profile.name, *name);
        assert!(!profile.description.is_empty(), "{name} has no description");
    }
}

/// Words that name a source in docs/profiles.md's list of sources.
const SOURCES: &[&str] = &[
    "GreenLv/Lumos",
    "WiFiSeer",
    "WebPageTest",
    "Lighthouse",
    "mahimahi",
    "Ookla",
    "SIGCOMM 2021",
    "Sensors 22:8592",
    "WWW 2024",
    "CoNEXT 2023",
];

#[test]
fn every_value_of_a_built_in_profile_names_its_source() {
    let documented = include_str!("../../../docs/profiles.md");
    for source in SOURCES {
        assert!(documented.contains(source), "docs/profiles.md does not say what {source} is");
    }
    let mut values = 0;
    for (name, text) in BUILT_IN {
        for line in text.lines().filter(|line| line.contains('=') && !line.starts_with("description")) {
            let (_, comment) = line.split_once('#').unwrap_or_default();
            let sourced = comment.contains("judgement") || SOURCES.iter().any(|s| comment.contains(s));
            assert!(sourced, "{name}: \"{line}\" names no source");
            values += 1;
        }
    }
    assert!(values > 100, "only {values} values were looked at");
}

#[test]
fn a_wrong_profile_is_told_by_file_key_and_what_was_expected() {
    let cases = [
        (with_down("rate = \"20\"\nqueue = \"1s\""), "profile x.toml, line 3, down.rate: \"20\" has no unit"),
        (with_down("rate = \"-2mbit\"\nqueue = \"1s\""), "down.rate: \"-2mbit\" is negative"),
        (with_down("rate = \"0mbit\"\nqueue = \"1s\""), "a rate of 0"),
        (with_down("rate = 20\nqueue = \"1s\""), "write rate = \"37mbit\""),
        (
            with_down("rate = \"1mbit\"\nqueue = { kind = \"codel\", limit = 100 }"),
            "down.queue.limit: invalid type: integer `100`, expected a string: write limit = \"30ms\"",
        ),
        (
            with_down("rate = \"1mbit\"\nqueue = { limit = \"1s\", kind = \"codel\", ecn = \"yes\" }"),
            "down.queue.ecn: invalid type: string \"yes\", expected a boolean",
        ),
        (
            with_down("rate = \"1mbit\"\nqueue = { kind = \"red\", limit = \"1s\" }"),
            "down.queue.kind: unknown variant `red`",
        ),
        (
            with_down("rate = \"1mbit\"\nqueue = { kind = \"codel\" }"),
            "down.queue has no limit: write limit = \"30ms\"",
        ),
        (
            with_down("rate = \"1mbit\"\nqueue = { kind = \"codel\", limt = \"1s\" }"),
            "unknown key \"limt\": did you mean \"limit\"?",
        ),
        (with_down("rate = \"20mbit\""), "[down] has no queue: write queue = \"100ms\""),
        (with_down("rate = \"1kbit\"\nqueue = \"1s\""), "down.rate: 1kbit is out of range"),
        (with_down("rate = \"1mbit\"\nqueue = \"0ms\""), "down.queue: \"0ms\" is a queue that holds nothing"),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\nlos = \"1%\""), "did you mean \"loss\"?"),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\nloss = \"1\""), "down.loss: \"1\" has no unit"),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\nloss = 1"), "a percentage such as \"1%\" or a table"),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\nloss = \"100%\""), "less than 100%"),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\nloss = { p = \"1%\" }"), "down.loss has no r"),
        (
            with_down("rate = \"1mbit\"\nqueue = \"1s\"\nloss = { p = \"1%\", r = \"0%\" }"),
            "never leaves the bad",
        ),
        (
            with_down("rate = \"1mbit\"\nqueue = \"1s\"\nloss = { p = \"1%\", q = \"2%\" }"),
            "[down.loss] has the unknown key \"q\"",
        ),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\ndelay = \"61s\""), "down.delay: 61s is out of range"),
        (
            with_down("rate = \"1mbit\"\nqueue = \"1s\"\ndelay = \"1ms\"\njitter = \"2ms\""),
            "more than the delay",
        ),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\ndistribution = \"normal\""), "the jitter is 0"),
        (
            with_down("rate = \"1mbit\"\nqueue = \"1s\"\ndistribution = \"gauss\""),
            "down.distribution: unknown variant",
        ),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\nreorder = \"1%\""), "give a delay"),
        ("description = \"d\"\n[down]\nrate = \"1mbit\"\nqueue = \"1s\"\n".into(), "table [up] not found"),
        (
            "name = \"n\"\n".to_string() + &with_down("rate = \"1mbit\"\nqueue = \"1s\""),
            "unknown key \"name\"",
        ),
        (with_down("rate = \"1mbit\"\nqueue = { kind = \"red\", limit = \"1s\" }"), "unknown variant"),
        (with_down("rate = \"1mbit\"\nqueue = { kind = \"codel\" }"), "down.queue has no limit"),
        (
            with_down("rate = \"1mbit\"\nqueue = { kind = \"codel\", limit = \"5ms\" }"),
            "not above the target",
        ),
        (
            with_down("rate = \"1mbit\"\nqueue = { kind = \"codel\", limit = \"1s\", flows = 2 }"),
            "for kind = \"fq",
        ),
        (
            with_down("rate = \"1mbit\"\nqueue = { kind = \"fq_codel\", limit = \"1s\", flows = 0 }"),
            "down.queue.flows: 0 is out of range: 1 to 65536",
        ),
        (
            with_down("rate = \"1mbit\"\nqueue = { kind = \"fq_codel\", limit = \"1s\", quantum = \"9B\" }"),
            "down.queue.quantum: 9B is out of range: 64B to 1MiB",
        ),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\ncross = \"1mbit\""), "leaves nothing of 1mbit"),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\ncross = \"0 x cubic\""), "write 1 to 64"),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\ncross = \"2 x vegas\""), "choose reno, cubic or bbr"),
        (
            with_down("rate = \"1mbit\"\nqueue = \"1s\"\ncross = \"much\""),
            "or connections as in \"2 x cubic\"",
        ),
        (with_down("rate = \"1mbit\"\nqueue = "), "line 4"),
        ("\u{0}\u{1}".into(), "line 1"),
    ];
    for (text, expected) in cases {
        let error = error(&text);
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
        assert!(!error.contains('\n'), "{error:?} is more than one line");
        assert!(error.starts_with("profile x.toml, "), "{error:?} does not name the file");
    }
}

#[test]
fn an_unknown_name_lists_the_known_ones_and_suggests_the_nearest() {
    let error = format!("{:#}", load("wifi-neer", LinkId::A).unwrap_err());
    assert!(error.contains("did you mean wifi-near?"), "{error}");
    assert!(error.contains("geo, lte-driving"), "{error}");
    let error = format!("{:#}", load("zzzzzzzzzz", LinkId::A).unwrap_err());
    assert!(!error.contains("did you mean"), "{error}");
}

#[test]
fn codel_has_its_usual_values_and_goes_through_json() {
    let parsed = |queue: &str| {
        let text = with_down(&format!("rate = \"1mbit\"\nqueue = {queue}"));
        parse("x", &text, &FileSource::File("x.toml".into()), LinkId::A).unwrap()
    };
    let profile = parsed("{ kind = \"codel\", limit = \"200ms\" }");
    let Queue::CoDel(codel) = profile.down.queue else { panic!("{}", profile.down.queue) };
    assert_eq!([codel.target.ms(), codel.interval.ms(), codel.limit.ms()], [5.0, 100.0, 200.0]);
    assert_eq!((profile.down.queue_bytes(), profile.down.is_rate_only()), (25_000, false));
    let given = "{ kind = \"codel\", limit = \"200ms\", target = \"15ms\", interval = \"300ms\" }";
    assert_eq!(parsed(given).down.queue.to_string(), "codel 15ms of 200ms");
    let fair =
        parsed("{ kind = \"fq_codel\", limit = \"200ms\", ecn = true, flows = 64, quantum = \"300B\" }");
    let Queue::CoDel(queue) = fair.down.queue else { panic!("{}", fair.down.queue) };
    assert_eq!((queue.flows(), queue.quantum_bytes(), codel.flows()), (64, 300, 1));
    assert_eq!(fair.down.queue.to_string(), "fq_codel 5ms of 200ms with ECN");
    for profile in [profile, fair] {
        let json = serde_json::to_string(&profile).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    }
}

/// Writes a profile with that table [trace] and that trace beside it, and loads it for link a.
fn with_trace(table: &str, trace: &[u8]) -> Result<Profile> {
    with_trace_for(LinkId::A, table, trace)
}

fn with_trace_for(link: LinkId, table: &str, trace: &[u8]) -> Result<Profile> {
    let dir = tempfile::tempdir().unwrap();
    let rate = "rate = \"1mbit\"\nqueue = \"100ms\"\n";
    let text = format!("description = \"d\"\n[down]\n{rate}[up]\n{rate}[trace]\n{table}\n");
    std::fs::write(dir.path().join("p.toml"), text).unwrap();
    std::fs::write(dir.path().join("t.csv"), trace).unwrap();
    std::fs::write(dir.path().join("u.csv"), "0 7\n1 8\n").unwrap();
    load(dir.path().join("p.toml").to_str().unwrap(), link)
}

#[test]
fn a_pair_of_traces_gives_each_link_its_own_from_one_moment_on() {
    let steps = |link, table: &str, trace: &str| {
        let profile = with_trace_for(link, table, trace.as_bytes()).unwrap();
        assert!(profile.up.trace.is_none());
        let trace = profile.down.trace.unwrap();
        let steps: Vec<(u64, f64)> =
            trace.steps().iter().map(|step| (step.at / 1_000_000_000, step.rate.mbit())).collect();
        (steps, trace.length() / 1_000_000_000)
    };
    let (table, columns) = ("pair = \"t.csv\"", "0,4,1\n1,2,3\n");
    assert_eq!(steps(LinkId::A, table, columns), (vec![(0, 4.0), (1, 2.0)], 2));
    assert_eq!(steps(LinkId::B, table, columns), (vec![(0, 1.0), (1, 3.0)], 2));
    let bytes = "pair = \"t.csv\"\nunits = \"bytes/s\"\noffset = \"1s\"\nloop = false";
    assert_eq!(steps(LinkId::B, bytes, "0 500000 125000\n1 250000 375000\n"), (vec![(0, 3.0)], 1));
    // Of seconds 1 to 4 and of 0 to 2 both have the second from 1 to 2.
    let files = "pair = [\"t.csv\", \"u.csv\"]";
    assert_eq!(steps(LinkId::A, files, "1 4\n2 2\n3 5\n"), (vec![(0, 4.0)], 1));
    assert_eq!(steps(LinkId::B, files, "1 4\n2 2\n3 5\n"), (vec![(0, 8.0)], 1));
}

#[test]
fn a_trace_is_found_beside_its_profile_and_given_to_the_ways_it_is_for() {
    let file = "file = \"t.csv\"\n";
    let ways = |table: &str, trace: &str| {
        let profile = with_trace(&format!("{file}{table}"), trace.as_bytes()).unwrap();
        let first = |shape: &Shape| shape.trace.as_ref().map(|trace| trace.steps()[0].rate.mbit());
        (first(&profile.down), first(&profile.up))
    };
    let (one, both) = ("0 4\n1 2\n", "DL_bitrate,UL_bitrate\n3000,1000\n5000,2000\n");
    assert_eq!(ways("", one), (Some(4.0), None));
    assert_eq!(ways("direction = \"up\"", one), (None, Some(4.0)));
    assert_eq!(ways("direction = \"both\"", one), (Some(4.0), Some(4.0)));
    assert_eq!(ways("up_file = \"u.csv\"", one), (Some(4.0), Some(7.0)));
    assert_eq!(ways("", both), (Some(3.0), Some(1.0)));
    assert_eq!(ways("direction = \"up\"", both), (None, Some(1.0)));
    assert_eq!(ways("offset = \"1s\"", one), (Some(2.0), None));
    assert_eq!(ways("step = \"2s\"\nformat = \"pairs\"\nloop = false", one), (Some(3.0), None));
}

#[test]
fn a_wrong_trace_is_told_by_profile_file_and_line() {
    let file = "file = \"t.csv\"\n";
    let cases: [(&str, &[u8], &str); 16] = [
        ("pair = \"t.csv\"", b"0 1\n1 2\n", "trace t.csv has no column for each link"),
        ("file = \"t.csv\"\npair = \"t.csv\"", b"0 1 1\n", "trace.pair: it stands in place of file"),
        (file, b"0 1 1\n1 1 2\n", "trace t.csv holds both links: name it as pair"),
        ("pair = [\"t.csv\", \"u.csv\"]", b"7 1\n8 2\n", "their times must overlap"),
        ("file = \"t.csv\"\nunits = \"mbps\"", b"0 1\n", "unit \"mbps\" not found"),
        (file, b"", "trace t.csv, it is empty"),
        (file, b"0 1\n2 1\n1 1\n", "trace t.csv, line 3: 1 s comes after 2 s"),
        (file, b"0 0\n1 0\n", "an outage from its beginning to its end"),
        (file, b"\0\0\0", "line 1: bytes that are not UTF-8"),
        ("file = \"none.csv\"", b"", "cannot read the trace"),
        ("file = \".\"", b"", "it is a folder"),
        ("step = \"1s\"", b"", "[trace] has no file"),
        ("file = \"t.csv\"\nstep = \"1ms\"", b"0 1\n", "trace.step: 1ms is too fine"),
        ("file = \"t.csv\"\ncolumn = \"x\"", b"0 1\n", "[trace] has the unknown key \"column\""),
        ("file = \"t.csv\"\nloop = false\noffset = \"9s\"", b"0 1\n1 2\n", "an offset of 9 s leaves nothing"),
        ("file = \"t.csv\"\nup_file = \"t.csv\"\ndirection = \"up\"", b"0 1\n", "leave direction out"),
    ];
    for (table, trace, expected) in cases {
        let error = format!("{:#}", with_trace(table, trace).unwrap_err());
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
        assert!(error.starts_with("profile ") && !error.contains('\n'), "{error:?}");
    }
    let error = error(&with_down("rate = \"1mbit\"\nqueue = \"1s\"\ntrace = \"t.csv\""));
    assert!(error.contains("a trace has a table of its own"), "{error}");
}

#[test]
fn a_trace_beyond_the_bound_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let rate = "rate = \"1mbit\"\nqueue = \"100ms\"\n";
    let text = format!("description = \"d\"\n[down]\n{rate}[up]\n{rate}[trace]\nfile = \"t.csv\"\n");
    std::fs::write(dir.path().join("p.toml"), text).unwrap();
    // A hole costs no room.
    std::fs::File::create(dir.path().join("t.csv")).unwrap().set_len(100_000_001).unwrap();
    let error = format!("{:#}", load(dir.path().join("p.toml").to_str().unwrap(), LinkId::A).unwrap_err());
    assert!(error.contains("100000001 bytes are more than it may have"), "{error}");
}

#[test]
fn a_profile_goes_through_json_and_back_with_its_name() {
    for (name, text) in BUILT_IN {
        let profile = parse(name, text, &FileSource::BuiltIn, LinkId::A).unwrap();
        let json = serde_json::to_string(&profile).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(.|\n|\\[|=|\"|down|up|rate|queue){0,80}") {
        let _ = parse("x", &text, &FileSource::BuiltIn, LinkId::A);
    }
}
