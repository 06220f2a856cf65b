use super::*;

fn error(text: &str) -> String {
    let source = Source::File("x.toml".into());
    format!("{:#}", parse("x", text, &source).unwrap_err())
}

/// A valid profile whose [down] has the given lines.
fn with_down(lines: &str) -> String {
    format!("description = \"d\"\n[down]\n{lines}\n[up]\nrate = \"1mbit\"\nqueue = \"100ms\"\n")
}

#[test]
fn what_is_built_in_is_what_the_folder_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("netem/profiles");
    let mut there = names_in(&folder);
    let mut built_in: Vec<String> = BUILT_IN.iter().map(|(name, _)| name.to_string()).collect();
    there.sort();
    built_in.sort();
    assert!(there.len() >= 16, "only {} profiles found", there.len());
    assert_eq!(built_in, there);
}

#[test]
fn every_built_in_profile_is_valid() {
    for (name, text) in BUILT_IN {
        let profile = parse(name, text, &Source::BuiltIn).unwrap();
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
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\ndistribution = \"normal\""), "no jitter"),
        (
            with_down("rate = \"1mbit\"\nqueue = \"1s\"\ndistribution = \"gauss\""),
            "down.distribution: unknown variant",
        ),
        (with_down("rate = \"1mbit\"\nqueue = \"1s\"\nreorder = \"1%\""), "give a delay"),
        ("description = \"d\"\n[down]\nrate = \"1mbit\"\nqueue = \"1s\"\n".into(), "there is no table [up]"),
        (
            "name = \"n\"\n".to_string() + &with_down("rate = \"1mbit\"\nqueue = \"1s\""),
            "unknown key \"name\"",
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
    let error = format!("{:#}", load("wifi-neer").unwrap_err());
    assert!(error.contains("did you mean wifi-near?"), "{error}");
    assert!(error.contains("geo, lte-medium"), "{error}");
    let error = format!("{:#}", load("zzzzzzzzzz").unwrap_err());
    assert!(!error.contains("did you mean"), "{error}");
}

#[test]
fn a_profile_goes_through_json_and_back_with_its_name() {
    for (name, text) in BUILT_IN {
        let profile = parse(name, text, &Source::BuiltIn).unwrap();
        let json = serde_json::to_string(&profile).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(.|\n|\\[|=|\"|down|up|rate|queue){0,80}") {
        let _ = parse("x", &text, &Source::BuiltIn);
    }
}
