//! Valid experiments, and the errors of invalid ones.

use crate::sweep::experiment::*;
use crate::sweep::plan;

const GOOD: &str = r#"
description = "two links, two ways"
seed = 7
repetitions = 3
files = "s{001..010}.m4s"
schedules = ["greedy", "ratio=1:4"]
pipelines = ["auto", 1]
congestion = ["reno"]
throughput = "1s"
segment_duration = "500ms"

[[condition]]
name = "near"
link_a = "wifi-near"
link_b = { profile = "lte-weak", delay = "75ms", loss = "1%" }

[[condition]]
name = "near"
channel = "course-scenario-1-near"
"#;

fn parse(text: &str) -> Result<Experiment> {
    Experiment::parse("x", text, Path::new("."))
}

#[test]
fn a_good_experiment_is_read_as_it_is_written() {
    let experiment = parse(GOOD).unwrap();
    assert_eq!(experiment.cells(), 2 * 2 * 2 * 3);
    assert_eq!(experiment.pipelines, [Pipeline::Auto, Pipeline::Depth(1)]);
    assert_eq!((experiment.segment_duration.ms(), experiment.startup), (500.0, 2));
    let [links, channel] = &experiment.conditions[..] else { panic!("two conditions") };
    assert_eq!((links.channel(), channel.channel()), ("independent", "shared"));
    let [a, b] = links.asked.profiles.each_ref().map(|profile| profile.clone().unwrap());
    assert_eq!(a.name, "wifi-near");
    assert_eq!(b.name, "lte-weak, delay 75ms, loss 1%");
    assert_eq!((b.down.delay.ms(), b.up.delay.ms()), (75.0, 75.0));
    assert_eq!(b.up.loss.mean().percent(), 1.0);
    let cell = &experiment.block(2)[0];
    assert_eq!((cell.block, cell.schedule.as_str(), cell.congestion.as_deref()), (2, "greedy", Some("reno")));
    assert_eq!(experiment.condition_of(cell).unwrap().channel(), "independent");
}

#[test]
fn cross_traffic_of_a_condition_takes_the_place_of_the_profiles() {
    let text =
        GOOD.replace("link_a = \"wifi-near\"", "link_a = { profile = \"wifi-near\", cross = \"2mbit\" }");
    assert_ne!(text, GOOD);
    let [a, b] = parse(&text).unwrap().conditions[0].asked.profiles.clone().map(Option::unwrap);
    assert_eq!(a.name, "wifi-near, cross 2mbit");
    assert_eq!([a.down.cross, a.up.cross].map(|cross| cross.unwrap().to_string()), ["2mbit", "2mbit"]);
    assert!(b.down.cross.is_none());
    let error = parse(&text.replace("2mbit", "200mbit")).unwrap_err();
    assert!(format!("{error:#}").contains("cross: "), "{error:#}");
}

#[test]
fn an_invalid_value_is_refused_by_name_with_a_remedy() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("s{001..010}", "s{9..1}", &["files: ", "counts from 9 to 1"]),
        ("seed = 7", "sede = 7", &["line 3", "sede", "did you mean \"seed\"?"]),
        ("repetitions = 3", "repetitions = 0", &["repetitions is 0", "1 to 1000"]),
        ("repetitions = 3", "repetitions = -1", &["line 4"]),
        ("[\"greedy\", \"ratio=1:4\"]", "[]", &["schedules is empty"]),
        ("\"ratio=1:4\"", "\"greedy\"", &["greedy twice", "repetitions"]),
        ("\"ratio=1:4\"", "\"ratio=0:0\"", &["schedules", "ratio=0:0"]),
        ("[\"auto\", 1]", "[\"auto\", 0]", &["pipelines", "\"0\""]),
        ("[\"auto\", 1]", "[true]", &["pipelines", "true"]),
        ("[\"auto\", 1]", "[1, \"1\"]", &["pipelines names 1 twice"]),
        ("[\"reno\"]", "[\"rano\"]", &["congestion: \"rano\"", "did you mean reno?", "cubic"]),
        ("\"1s\"", "\"0s\"", &["throughput is", "500ms to 60s"]),
        ("throughput = \"1s\"", "throughput = 1", &["line 9"]),
        ("\"500ms\"", "\"0s\"", &["segment_duration is", "4s"]),
        ("seed = 7", "startup = 0", &["startup is 0", "one segment"]),
        ("seed = 7", "probe = \"always\"", &["probe is \"always\"", "\"warn\""]),
        ("name = \"near\"\nchannel", "name = \"\"\nchannel", &["name"]),
        (
            "\"wifi-near\"",
            "\"wifi-naer\"",
            &["condition \"near\"", "link_a", "did you mean wifi-near?", "dsl"],
        ),
        ("scenario-1-near\"", "scenario-1-naer\"", &["did you mean course-scenario-1-near?"]),
        ("loss = \"1%\"", "lost = \"1%\"", &["lost", "did you mean \"loss\"?"]),
        ("delay = \"75ms\"", "delay = 75", &["line 15"]),
        ("delay = \"75ms\"", "delay = \"75\"", &["unit"]),
        ("delay = \"75ms\"", "jitter = \"9s\"", &["lte-weak, jitter 9s", "more than the delay"]),
        (
            "channel = ",
            "link_b = \"dsl\"\nchannel = ",
            &["link b is on the shared channel", "leave link_b out"],
        ),
        (
            "channel = \"course-scenario-1-near\"",
            "independent = true\nlink_a = \"dsl\"",
            &["for the links of a shared channel"],
        ),
        ("channel = \"course-scenario-1-near\"", "", &["neither profiles", "channel"]),
        ("channel = ", "link_c = ", &["link_c", "did you mean \"link_"]),
        ("channel = \"course-scenario-1-near\"", "link_a = \"dsl\"", &["\"near\" is there twice"]),
        ("repetitions = 3", "repetitions = 1000\ndescription = 1", &["line 5"]),
    ];
    for (from, to, words) in cases {
        assert!(GOOD.contains(from), "{from} is not in the good experiment");
        let error = parse(&GOOD.replacen(from, to, 1)).map(|_| ()).unwrap_err();
        let error = format!("{error:#}");
        for word in *words {
            assert!(error.contains(word), "expected {word} for {to} in: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn the_control_of_a_shared_channel_has_what_each_link_carries_alone() {
    let control =
        parse(&GOOD.replace("channel = ", "independent = true\nchannel = ").replacen("\"near\"", "\"n\"", 1));
    let control = control.unwrap().conditions.remove(1);
    assert_eq!(control.channel(), "independent");
    let config = crate::config::channel::ChannelConfig::load("course-scenario-1-near").unwrap();
    for link in crate::units::LinkId::BOTH {
        let profile = control.asked.profiles[link.index()].as_ref().unwrap();
        assert_eq!(Some(profile.down.rate), config.alone(link));
        assert_eq!(profile.name, format!("course-scenario-1-near link {link} alone"));
    }
}

#[test]
fn an_experiment_without_conditions_or_with_too_many_cells_is_refused() {
    let none = GOOD.split("[[condition]]").next().unwrap();
    assert!(parse(none).unwrap_err().to_string().contains("[[condition]]"));
    let depths: Vec<String> = (1..=30).map(|depth| depth.to_string()).collect();
    let many = GOOD.replace("[\"auto\", 1]", &format!("[{}]", depths.join(", ")));
    let many = many.replace("repetitions = 3", "repetitions = 1000");
    assert!(parse(&many).unwrap_err().to_string().contains("120000 cells"));
}

#[test]
fn the_oracle_needs_throughputs() {
    let oracle = GOOD.replace("\"greedy\"", "\"rates=alone\"");
    assert_eq!(parse(&oracle).unwrap().entrants[0], Entrant::RatesAlone);
    let error = parse(&oracle.replace("throughput = \"1s\"", "")).unwrap_err().to_string();
    assert!(error.contains("throughput = "), "{error}");
}

#[test]
fn a_profile_s_path_starts_at_the_experiment_s_folder() {
    let dir = tempfile::tempdir().unwrap();
    let profile = "description = \"mine\"\n[down]\nrate = \"5mbit\"\nqueue = \"50ms\"\n[up]\nrate = \"5mbit\"\nqueue = \"50ms\"\n";
    std::fs::write(dir.path().join("mine.toml"), profile).unwrap();
    let text = "schedules = [\"greedy\"]\n[[condition]]\nname = \"c\"\nlink_a = \"mine.toml\"\n";
    let path = dir.path().join("e.toml");
    std::fs::write(&path, text).unwrap();
    let experiment = Experiment::find(&path).unwrap();
    assert_eq!(experiment.name, "e");
    assert_eq!(experiment.conditions[0].asked.profiles[0].as_ref().unwrap().down.rate.mbit(), 5.0);
    assert!(experiment.conditions[0].asked.profiles[1].is_none());
}

#[test]
fn every_experiment_that_ships_is_valid_and_its_cells_can_be_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let experiment = Experiment::find(&path).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(experiment.description.is_some(), "{} does not say what it asks", path.display());
        let order = plan::order(&experiment);
        assert_eq!(order.len() as u64, experiment.cells());
        assert!(order.iter().all(|cell| experiment.condition_of(cell).is_some()));
        seen += 1;
    }
    assert!(seen > 0, "no experiment was found");
}

#[test]
fn change_that_a_trace_would_overrule_is_refused() {
    let text = |change: &str| {
        format!(
            "schedules = [\"adaptive\"]\n[[condition]]\nname = \"x\"\nlink_b = \"rate-20\"\n\
             link_a = {{ profile = \"lte-driving\", {change} }}\n"
        )
    };
    let refused = format!("{:#}", parse(&text("rate = \"1mbit\"")).unwrap_err());
    assert!(refused.contains("rate: the profile lte-driving takes it from its trace"), "{refused}");
    parse(&text("queue = \"50ms\"")).unwrap();
}

const PROGRAMS: &str = r#"
schedules = ["adaptive"]
pipelines = ["auto", 1]

[[condition]]
name = "near"
link_a = "wifi-near"
link_b = "lte-medium"
at = [
    { after = "4s", link = "b", profile = { profile = "lte-medium", rate = "2mbit" } },
    { after = "2s", link = "a", profile = "wifi-far" },
]

[[program]]
name = "mine"
command = "python3 mine.py"
time_limit = "20s"

[[program]]
name = "two tools"
command = "FILE=x tool-a | tool-b"
needs = ["tool-a", "tool-b"]
"#;

#[test]
fn programs_stand_beside_schedules_once_a_condition() {
    let experiment = parse(PROGRAMS).unwrap();
    let names: Vec<String> = experiment.entrants.iter().map(Entrant::to_string).collect();
    assert_eq!(names, ["adaptive", "mine", "two tools"]);
    // A program takes part in no list of pipelines.
    assert_eq!((experiment.cells(), experiment.block(0).len()), (4, 4));
    let cell = &experiment.block(0)[2];
    assert_eq!((cell.schedule.as_str(), cell.pipeline.as_str(), &cell.congestion), ("mine", "auto", &None));
    let Some(Entrant::Program(program)) = experiment.entrant_of(cell) else { panic!("no program") };
    assert_eq!((program.words()[2].as_str(), program.time_limit.ms()), ("python3 mine.py", 20_000.0));
    let only = parse(&PROGRAMS.replace("schedules = [\"adaptive\"]", "")).unwrap();
    assert_eq!(only.cells(), 2);
}

#[test]
fn changes_of_a_condition_come_in_the_order_of_their_times() {
    let experiment = parse(PROGRAMS).unwrap();
    let script = experiment.conditions[0].asked.script.as_ref().unwrap();
    let times: Vec<String> = script.changes.iter().map(|c| format!("{} {}", c.after, c.link)).collect();
    assert_eq!(times, ["2s a", "4s b"]);
}

#[test]
fn invalid_programs_and_changes_are_refused_by_name() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("name = \"mine\"", "name = \"two tools\"", &["two programs are called \"two tools\""]),
        ("name = \"mine\"", "name = \"ratio=1:2\"", &["\"ratio=1:2\" is a schedule's"]),
        ("name = \"mine\"", "name = \" \"", &["the program's name"]),
        ("python3 mine.py", "", &["\"mine\" has an empty command"]),
        ("command = \"python3", "comand = \"python3", &["comand", "did you mean \"command\"?"]),
        ("link = \"b\"", "link = \"c\"", &["\"near\"", "at:", "c"]),
        ("profile = \"wifi-far\"", "profile = \"wifi-fra\"", &["at 2s on link a", "did you mean wifi-far?"]),
        ("link_a = \"wifi-near\"\n", "", &["at changes link a", "link_a"]),
    ];
    for (good, bad, words) in cases {
        let error = format!("{:#}", parse(&PROGRAMS.replacen(good, bad, 1)).unwrap_err());
        assert!(words.iter().all(|word| error.contains(word)), "{bad}: {error}");
    }
}

#[test]
fn programs_that_are_missing_are_named_with_their_entrants() {
    let experiment = parse(&PROGRAMS.replace("python3 mine.py", "./mine.sh --fast")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let check = || entrant::check_programs(&experiment.entrants, folder.path());
    let error = check().unwrap_err().to_string();
    let words = ["./mine.sh (of mine)", "tool-a (of two tools)", "tool-b (of two tools)", "[[program]]"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    let line = |text: &str| parse(&PROGRAMS.replace("python3 mine.py", text)).unwrap();
    for known in ["cat $FILES", "for x in a; do :; done", "X=1 nothing", "\\\"$HOME\\\"/nothing"] {
        let entrants = line(known).entrants;
        entrant::check_programs(&entrants[..2], folder.path()).unwrap();
    }
}
