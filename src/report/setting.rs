//! The page's last parts: the links as asked and as probed, the environment, what is not modelled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::compare;
use super::load::Loaded;
use super::numbers::{mbit, short};
use super::plot::escape;
use super::run::LoggedRun;
use super::sheet::Sheet;
use super::stats;
use crate::log::schema::{Link, LinkTotals, Probe, RunStart};
use crate::units::{Direction, LinkId};

pub(crate) fn markup(loaded: &Loaded) -> String {
    format!("{}{}{}", links(loaded), environment(loaded), not_modelled(loaded))
}

/// The key of a row of the table.
type SettingKey = (String, LinkId, Direction, String);

/// Each link as it was asked for, beside what the probes found: medians over the runs.
fn links(loaded: &Loaded) -> String {
    let mut rows: BTreeMap<SettingKey, (&Link, Vec<&Probe>, Vec<&LinkTotals>)> = BTreeMap::new();
    for run in loaded.runs() {
        let condition = compare::key(run).map_or(String::new(), |(key, _)| key.condition);
        for link in run.links.iter().map(|timed| &timed.data) {
            if !["set", "changed"].contains(&link.action.as_str()) {
                continue;
            }
            let profile = link.profile.as_deref().unwrap_or("unshaped");
            let later = if link.action == "changed" { " (after a change)" } else { "" };
            let profile = format!("{profile}{later}");
            let key = (condition.clone(), link.link, link.direction, profile);
            let (_, probes, totals) = rows.entry(key).or_insert((link, Vec::new(), Vec::new()));
            // Probes, and sums over a run, are of the links that it began with.
            if link.action == "changed" {
                continue;
            }
            let same = |probe: &&Probe| (probe.link, probe.direction) == (link.link, link.direction);
            probes.extend(run.probes.iter().filter(same));
            totals.extend(run.end.as_ref().map(|end| &end.links[link.link]));
        }
    }
    let text = String::from("<section id=\"links\"><h2>Links, as asked and as probed</h2>");
    if rows.is_empty() {
        return text + "<p>No link was shaped.</p></section>";
    }
    let conditions: BTreeSet<&String> = rows.keys().map(|key| &key.0).collect();
    let many = conditions.len() > 1;
    let mut sheet = Sheet::new(&[
        ("link", true),
        ("profile", true),
        ("rate Mbit/s", false),
        ("→ probed", false),
        ("RTT ms", false),
        ("→ probed", false),
        ("busy", false),
        ("one way ms", false),
        ("jitter ms", false),
        ("loss %", false),
        ("→ probed", false),
        ("queue ms", false),
        ("probes", true),
    ]);
    let mut group = None;
    for ((condition, link, direction, profile), (record, probes, totals)) in &rows {
        if many && group.replace(condition) != Some(condition) {
            sheet.group(&escape(condition));
        }
        let class = if *link == LinkId::A { "a" } else { "b" };
        let asked = record.asked.as_ref();
        let number = |value: Option<f64>| value.map_or("–".into(), short);
        let loss = |value: Option<f64>| value.map_or("–".into(), |pct| format!("{pct:.3}"));
        let probed =
            |of: fn(&Probe) -> Option<f64>| stats::median(probes.iter().filter_map(|probe| of(probe)));
        let cross = record.asked.as_ref().and_then(|asked| asked.cross.as_deref());
        let crossed = cross.map_or(String::new(), |cross| {
            let pct = stats::median(totals.iter().filter_map(|link| link.cross_pct));
            let pct =
                pct.filter(|_| *direction == Direction::Down).map(|pct| format!(", {pct:.0} % of the bytes"));
            format!("<br>cross: {}{}", escape(cross), pct.unwrap_or_default())
        });
        sheet.row(
            &format!("<span class=\"key {class}\">{link} {direction}</span>"),
            &[
                escape(profile) + &crossed,
                asked.map_or("–".into(), |asked| mbit(asked.rate_kbit)),
                number(probed(|probe| probe.rate_kbit).map(|kbit| kbit / 1e3)),
                number(probed(|probe| probe.rtt_expected_ms)),
                number(probed(|probe| probe.rtt_ms)),
                number(stats::median(totals.iter().filter_map(|link| link.busy_rtt_ms))),
                number(asked.map(|asked| asked.delay_ms)),
                number(asked.map(|asked| asked.jitter_ms)),
                loss(asked.map(|asked| asked.loss_pct)),
                loss(probed(|probe| probe.loss_pct)),
                number(asked.map(|asked| asked.queue_ms)),
                judged(probes),
            ],
        );
    }
    text + &sheet.markup().unwrap_or_default()
        + "<p class=\"note\">Rates count Ethernet frames. After each value as asked (→) stands the one that was probed. Probed values are medians over the runs; a run without a \
           probe has none. The busy RTT is TCP&#39;s smoothed one while something came.</p></section>"
}

fn judged(probes: &[&Probe]) -> String {
    let count = |wanted: bool| probes.iter().filter(|probe| probe.ok == Some(wanted)).count();
    match (count(true), count(false)) {
        (0, 0) => "–".into(),
        (good, 0) => format!("{good} as asked"),
        (good, bad) => format!("{bad} of {} off", good + bad),
    }
}

fn environment(loaded: &Loaded) -> String {
    let mut text = String::from("<section id=\"environment\"><h2>Environment</h2><dl>");
    let mut fact = |name: &str, values: BTreeSet<String>| {
        const SHOWN: usize = 6;
        if values.is_empty() {
            return;
        }
        let count = values.len();
        let mut shown: Vec<String> = values.into_iter().take(SHOWN).map(|value| escape(&value)).collect();
        if count > SHOWN {
            shown.push(format!("and {} more, in csv/runs.csv and the logs", count - SHOWN));
        }
        let _ = write!(text, "<dt>{name}</dt><dd class=\"mono\">{}</dd>", shown.join("<br>"));
    };
    let starts = |of: &dyn Fn(&RunStart) -> Option<String>| -> BTreeSet<String> {
        loaded.runs().filter_map(|run| of(run.start.as_ref()?)).collect()
    };
    let sweeps =
        loaded.groups.iter().filter_map(|group| group.sweep.as_ref()).flat_map(|sweep| &sweep.starts);
    let calls: BTreeSet<String> = sweeps.clone().map(|start| start.command_line.join(" ")).collect();
    let calls = if calls.is_empty() { starts(&|start| Some(start.command_line.join(" "))) } else { calls };
    fact("command line", calls);
    fact("version", starts(&|start| Some(start.version.clone())));
    fact("commit", starts(&|start| start.commit.clone()));
    fact("kernel", starts(&|start| Some(start.kernel.clone())));
    let backends = |run: &LoggedRun| {
        run.links.iter().map(|link| format!("{}: {}", link.data.backend, link.data.why)).collect::<Vec<_>>()
    };
    fact("backend", loaded.runs().flat_map(backends).collect());
    fact("client's congestion control", starts(&|start| start.congestion_control.clone()));
    fact("servers' congestion control", loaded.runs().flat_map(senders).collect());
    fact(
        "servers",
        starts(&|start| Some(format!("{}, {}", server(start, LinkId::A), server(start, LinkId::B)))),
    );
    fact("pipeline", starts(&|start| Some(start.pipeline.clone())));
    fact("connections to a server", starts(&|start| start.connections.clone()));
    fact("seed of the links", starts(&|start| Some(start.seed.to_string())));
    fact("seed of the order", sweeps.map(|start| start.seed.to_string()).collect());
    fact(
        "viewer",
        starts(&|start| {
            let (duration_s, startup) = (start.segment_duration_ms / 1e3, start.startup_segments);
            Some(format!("segments of {} s, starts with {startup}", short(duration_s)))
        }),
    );
    fact("this host", starts(&|start| Some(start.doctor["summary"].as_str()?.to_string())));
    fact("report by", [format!("twinlink {}", env!("CARGO_PKG_VERSION"))].into());
    text + "</dl></section>"
}

fn senders(run: &LoggedRun) -> Option<String> {
    let [a, b] = LinkId::BOTH.map(|link| run.sender_congestion(link));
    a.or(b).map(|_| format!("a: {}, b: {}", a.unwrap_or("unknown"), b.unwrap_or("unknown")))
}

fn server(start: &RunStart, link: LinkId) -> String {
    let server = &start.servers[link];
    format!("{link}: {} ({})", server.name, server.software.as_deref().unwrap_or("unknown software"))
}

/// The short form of docs/limitations.md: what holds for the links and backends of these runs.
fn not_modelled(loaded: &Loaded) -> String {
    let shared = loaded.runs().any(LoggedRun::shares_channel);
    let apart = loaded.runs().any(|run| !run.shares_channel());
    let bursts_on = |backend: &str| {
        let mut links = loaded.runs().flat_map(|run| &run.links).map(|timed| &timed.data);
        links.any(|link| {
            let model = link.asked.as_ref().and_then(|asked| asked.loss_model.as_deref());
            link.backend == backend && model == Some("gilbert-elliott")
        })
    };
    let (by_packets, by_time) = (bursts_on("netem"), bursts_on("userspace"));
    let sentences = [
        (
            shared,
            "The shared channel has 802.11&#39;s contention, framing and repeats, but constant rates and no hidden stations.",
        ),
        (
            apart,
            "The links of two profiles are independent of each other; only a shared channel makes them share.",
        ),
        (apart, "Link-layer retransmission of a profile shows only as jitter and as the loss it leaves."),
        (by_packets, "On netem a burst of losses counts packets, not time, so that a pause does not end it."),
        (by_time, "In userspace a burst of losses lasts a time, whatever is sent meanwhile."),
        (by_packets || by_time, "Losses in bursts are a poor picture of Wi-Fi&#39;s."),
        (
            true,
            "The bound is physics: it knows neither losses nor TCP&#39;s start, so on a lossy link no TCP reaches it.",
        ),
        (true, "The viewer has one quality, an endless buffer, and never skips."),
        (
            true,
            "In the lab both servers and the client share one machine: on a busy one, everything is late.",
        ),
    ];
    let items: String =
        sentences.iter().filter(|(holds, _)| *holds).map(|(_, text)| format!("<li>{text}</li>")).collect();
    format!(
        "<section id=\"not-modelled\"><h2>What is not modelled</h2><ul>{items}</ul>\
         <p class=\"note\">docs/limitations.md says more.</p></section>"
    )
}
