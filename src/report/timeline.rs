//! One run over time: goodput over the rates in force, queues, drops and retransmissions, each segment
//! on its link, and the viewer's buffer; faults and changes of a link are marked in all of them.
//!
//! More values than a plot can show are merged: samples into steps of equal length, neighbouring segments of
//! a link into one bar. The words under the plots say so.

use std::fmt::Write;

use super::numbers::{mbit, seconds, short};
use super::plot::{Panel, escape};
use super::run::{LoggedRun, drops};
use super::words;
use crate::log::schema::{Counters, Part, Sample};
use crate::units::LinkId;

/// The legend of both links.
const KEYS: &str = "<span class=\"key a\">link a</span>, <span class=\"key b\">link b</span>";

/// How much of a run is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detail {
    /// The most steps of time, and bars a link.
    pub most: usize,
    /// Whether bars say which segments they are.
    pub names: bool,
}

/// One step of time on one link.
#[derive(Clone, Copy, Debug, Default)]
struct TimelineStep {
    samples: u32,
    goodput_kbit: f64,
    queue_ms: f64,
    rate_kbit: Option<f64>,
    drops: u64,
    resent: u64,
}

/// The timeline as markup; of a run that sent no request, or got nothing for it, what happened in words.
pub(crate) fn markup(run: &LoggedRun, detail: Detail) -> String {
    let first_ms = run.first_request_ms();
    let length_s = first_ms.map_or(0.0, |first_ms| (last_ms(run, first_ms) - first_ms) / 1e3);
    let Some(first_ms) = first_ms.filter(|_| length_s > 0.0) else {
        let end = run.end.as_ref();
        let why = end.map_or("the run never ended.".into(), |end| format!("{}. {}", end.exit, end.summary));
        let marks = list(&marks(run, first_ms.unwrap_or(0.0), f64::INFINITY));
        return format!("<p class=\"note\">Nothing was transferred: {}</p>{marks}", escape(&why));
    };
    let view = TimelineView { run, first_ms, length_s, marks: marks(run, first_ms, length_s) };
    let wanted = ((length_s * 10.0).ceil() as usize).clamp(1, detail.most);
    let steps = LinkId::BOTH.map(|link| view.steps(link, wanted));
    let mut text = String::new();
    if run.samples.is_empty() {
        text += "<p class=\"note\">The log has no samples, so there is nothing to draw of goodput and queues.</p>";
    } else {
        text += &view.goodput(&steps);
        text += &view.queue(&steps);
        text += &view.losses(&steps);
    }
    let (bars, merged) = view.segments(detail);
    text += &bars;
    text += &view.buffer(detail.most);
    text += &list(&view.marks);
    text += &view.notes(wanted, merged);
    text
}

/// When the transfer ended: with its last file, and where that is not all of them, with its last sample.
fn last_ms(run: &LoggedRun, first_ms: f64) -> f64 {
    let done = run.segments.iter().map(|segment| segment.done_ms).fold(first_ms, f64::max);
    let complete = run.end.as_ref().is_some_and(|end| end.elapsed_ms.is_some());
    let sampled = run.samples.last().filter(|_| !complete);
    sampled.map_or(done, |sample| done.max(sample.at_ms))
}

/// Something that happened at a moment (s since the first request; below 0, before it).
struct Mark {
    at_s: f64,
    class: &'static str,
    what: String,
}

fn marks(run: &LoggedRun, first_ms: f64, length_s: f64) -> Vec<Mark> {
    let faults = run
        .faults
        .iter()
        .map(|fault| (fault.at_ms, "fault", format!("fault, {}", words::fault(&fault.data))));
    // The steps of a trace are in the samples' rates.
    let changes =
        run.links.iter().filter(|link| !matches!(link.data.action.as_str(), "set" | "step")).map(|link| {
            let profile = link.data.profile.as_deref().unwrap_or("no profile");
            let data = &link.data;
            (
                link.at_ms,
                "change",
                format!("link {} {} {}: {profile}", data.link, data.direction, data.action),
            )
        });
    let mut marks: Vec<Mark> = faults
        .chain(changes)
        .map(|(at_ms, class, what)| Mark { at_s: (at_ms - first_ms) / 1e3, class, what })
        // A change after the last file, such as a clear, is no part of the transfer.
        .filter(|mark| mark.at_s <= length_s || mark.class == "fault")
        .collect();
    marks.sort_by(|x, y| x.at_s.total_cmp(&y.at_s));
    marks
}

struct TimelineView<'a> {
    run: &'a LoggedRun,
    first_ms: f64,
    length_s: f64,
    marks: Vec<Mark>,
}

impl TimelineView<'_> {
    fn panel(&self, title: &str, height_px: u32, y_max: f64) -> Panel {
        Panel::new(title, height_px, self.length_s, y_max)
    }

    /// Marks what happened, and renders.
    fn finish(&self, mut panel: Panel, alt: &str, names: &[(f64, &str)]) -> String {
        for mark in &self.marks {
            panel.upright(mark.class, mark.at_s);
        }
        panel.markup(alt, names, "s")
    }

    fn steps(&self, link: LinkId, count: usize) -> Vec<TimelineStep> {
        let width_s = self.length_s / count as f64;
        let mut steps = vec![TimelineStep::default(); count];
        let told = self.senders_tell();
        let mut before: Option<&Sample> = None;
        let mut rate_kbit = None;
        for sample in self.run.samples.iter().filter(|sample| sample.data.link == link) {
            // A sample speaks of the time before it.
            let at_s = (sample.at_ms - self.first_ms) / 1e3 - 0.05;
            let data = &sample.data;
            // The counts of the first sample include the time before the transfer.
            let since = |of: &dyn Fn(&Sample) -> u64| of(data).saturating_sub(of(before.unwrap_or(data)));
            let (drops, resent) = (since(&drops), since(&|sample| resent(sample, told)));
            before = Some(data);
            let rate_now = data.down.as_ref().and_then(|down| down.rate_kbit);
            rate_kbit = rate_now.filter(|rate| *rate > 0.0).or(rate_kbit);
            if at_s < -0.05 || at_s > self.length_s {
                continue;
            }
            let step = &mut steps[((at_s.max(0.0) / width_s) as usize).min(count - 1)];
            step.samples += 1;
            step.goodput_kbit += data.goodput_kbit;
            step.drops = step.drops.saturating_add(drops);
            step.resent = step.resent.saturating_add(resent);
            if let Some(down) = &data.down {
                step.queue_ms = step.queue_ms.max(queue_ms(down, rate_kbit));
            }
            step.rate_kbit = rate_now;
        }
        fill(&mut steps);
        steps
    }

    fn senders_tell(&self) -> bool {
        self.run.samples.iter().any(|sample| sample.data.sender.is_some())
    }

    fn moments<'s>(
        &self,
        steps: &'s [TimelineStep],
        of: impl Fn(&TimelineStep) -> f64 + 's,
    ) -> Vec<(f64, f64)> {
        let width_s = self.length_s / steps.len() as f64;
        let at = move |index: usize| (index as f64 + 0.5) * width_s;
        steps.iter().enumerate().map(|(index, step)| (at(index), of(step))).collect()
    }

    fn goodput(&self, steps: &[Vec<TimelineStep>; 2]) -> String {
        let [a, b] = [0, 1].map(|link| self.moments(&steps[link], |step| step.goodput_kbit / 1e3));
        let both: Vec<(f64, f64)> = a.iter().zip(&b).map(|(a, b)| (a.0, a.1 + b.1)).collect();
        let ground: Vec<(f64, f64)> = a.iter().map(|point| (point.0, 0.0)).collect();
        // A link that was cleared has no rate any more.
        let [rate_a, rate_b] = [0, 1].map(|link| {
            self.moments(&steps[link], |step| step.rate_kbit.map_or(f64::NAN, |kbit| kbit / 1e3))
        });
        let known = [0, 1].map(|link| steps[link].iter().any(|step| step.rate_kbit.is_some()));
        let on = |below: &[(f64, f64)]| below.iter().zip(&rate_b).map(|(x, y)| (x.0, x.1 + y.1)).collect();
        let (dashed, lines) = match known {
            [true, true] if self.run.shares_channel() => (
                "; dashed, the rate of each while it has the channel, which they share: the two do not add up",
                vec![("a dash", rate_a), ("b dash", rate_b)],
            ),
            [true, true] => (
                "; dashed, the rates in force of a and of both",
                vec![("fg dash", on(&rate_a)), ("a dash", rate_a)],
            ),
            [true, false] => ("; dashed, the rate in force of a", vec![("a dash", rate_a)]),
            [false, true] => ("; dashed, the rate in force of b, on top of a", vec![("b dash", on(&a))]),
            [false, false] => ("", Vec::new()),
        };
        let highest = both.iter().chain(lines.iter().flat_map(|(_, line)| line));
        let y_max = highest.map(|point| point.1).fold(0.0, f64::max) * 1.06;
        let title = format!(
            "Goodput, Mbit/s: <span class=\"key a\">link a</span>, <span class=\"key b\">link b</span> on top \
             of it{dashed}"
        );
        let mut panel = self.panel(&title, 150, y_max);
        panel.area("a", &a, &ground);
        panel.area("b", &both, &a);
        for (class, line) in &lines {
            panel.line(class, line);
        }
        let said = LinkId::BOTH.map(|link| {
            let values = &steps[link.index()];
            let mean = values.iter().map(|step| step.goodput_kbit).sum::<f64>() / values.len() as f64;
            let rate = values.iter().find_map(|step| step.rate_kbit);
            let of = rate.map_or(String::new(), |rate| format!(" of a rate of {} Mbit/s", mbit(rate)));
            format!("link {link} carries {} Mbit/s in the mean{of}", mbit(mean))
        });
        let alt = format!("Goodput over {}: {}.", seconds(self.length_s * 1e3), said.join("; "));
        self.finish(panel, &alt, &[])
    }

    fn queue(&self, steps: &[Vec<TimelineStep>; 2]) -> String {
        let lines = [0, 1].map(|link| self.moments(&steps[link], |step| step.queue_ms));
        let highest = |line: &[(f64, f64)]| line.iter().map(|point| point.1).fold(0.0, f64::max);
        let most = lines.each_ref().map(|line| highest(line));
        let mut panel =
            self.panel(&format!("Queue in the down direction, ms: {KEYS}"), 90, most[0].max(most[1]) * 1.06);
        panel.line("a", &lines[0]);
        panel.line("b", &lines[1]);
        let alt = format!(
            "Queue in the down direction: at most {} ms on link a, {} ms on link b.",
            short(most[0]),
            short(most[1])
        );
        self.finish(panel, &alt, &[])
    }

    /// Drops downward from the middle line's sight: bars up for link a's, then b's on top of them.
    fn losses(&self, steps: &[Vec<TimelineStep>; 2]) -> String {
        let width_s = self.length_s / steps[0].len() as f64;
        let total = |of: fn(&TimelineStep) -> u64| {
            [0, 1].map(|link| steps[link].iter().map(of).fold(0, u64::saturating_add))
        };
        let (drops, resent) = (total(|step| step.drops), total(|step| step.resent));
        let told = self.senders_tell();
        let alt = format!(
            "Dropped packets: {} on link a, {} on link b. {}",
            drops[0],
            drops[1],
            if told {
                format!("Retransmitted by the servers: {} and {}.", resent[0], resent[1])
            } else {
                format!("Arrived out of order: {} and {}.", resent[0], resent[1])
            }
        );
        if drops.iter().chain(&resent).all(|count| *count == 0) {
            return format!("<p class=\"note\">{alt}</p>");
        }
        let most = steps.iter().flatten().map(|step| step.drops.max(step.resent)).max().unwrap_or(0);
        let title = if told { "retransmissions" } else { "arrivals out of order" };
        let title =
            format!("Packets a step of {}: bars, drops on {KEYS}; dots, {title}", seconds(width_s * 1e3));
        let mut panel = self.panel(&title, 90, most as f64 * 1.06);
        let half = most as f64 * 0.02;
        for (class, link) in [("a", 0), ("b", 1)] {
            // Side by side, so that neither link hides the other.
            let left = |index: usize| (index as f64 + 0.5 * link as f64) * width_s;
            let some = |of: fn(&TimelineStep) -> u64| {
                let counted = steps[link].iter().map(of).enumerate();
                counted.filter(|(_, count)| *count > 0).collect::<Vec<_>>()
            };
            let bar = |(index, count): (usize, u64)| {
                ([left(index), left(index) + width_s * 0.5, 0.0, count as f64], String::new())
            };
            let dot = |(index, count): (usize, u64)| {
                let at = count as f64;
                ([left(index), left(index) + width_s * 0.5, at - half, at + half], String::new())
            };
            panel.boxes(class, &some(|step| step.drops).into_iter().map(bar).collect::<Vec<_>>());
            panel.boxes("fg", &some(|step| step.resent).into_iter().map(dot).collect::<Vec<_>>());
        }
        self.finish(panel, &alt, &[])
    }

    /// The segments' bars, and how many neighbours the largest bar stands for.
    fn segments(&self, detail: Detail) -> (String, usize) {
        let mut panel = self.panel("Segments: thick, their bytes come; thin, waiting for the first", 84, 2.0);
        let mut merged = 1;
        let mut said = Vec::new();
        for link in LinkId::BOTH {
            let mut parts: Vec<(&str, &Part)> = self
                .run
                .segments
                .iter()
                .flat_map(|segment| segment.parts.iter().map(|part| (segment.name.as_str(), part)))
                .filter(|(_, part)| part.link == link)
                .collect();
            parts.sort_by(|x, y| x.1.done_ms.total_cmp(&y.1.done_ms));
            let each = parts.len().div_ceil(detail.most).max(1);
            merged = merged.max(each);
            let ground = if link == LinkId::A { 1.0 } else { 0.0 };
            let (mut body, mut wait) = ([Vec::new(), Vec::new()], Vec::new());
            for (index, group) in parts.chunks(each).enumerate() {
                let bar = self.bar(group);
                let name = if detail.names { describe(group) } else { String::new() };
                wait.push(([bar[0], bar[1], ground + 0.82, ground + 0.9], String::new()));
                // Two shades in turn tell neighbours apart.
                body[index % 2].push(([bar[1], bar[2], ground + 0.12, ground + 0.72], name));
            }
            let class = if link == LinkId::A { "a" } else { "b" };
            panel.boxes(&format!("{class} thin"), &wait);
            panel.boxes(class, &body[0]);
            panel.boxes(&format!("{class} pale"), &body[1]);
            said.push(format!("link {link} brought {} parts of segments", parts.len()));
        }
        let alt = format!("Each segment on its link: {}.", said.join(", "));
        (self.finish(panel, &alt, &[(1.5, "link a"), (0.5, "link b")]), merged)
    }

    /// When a group of parts was asked for, began to come, and was there (s).
    fn bar(&self, group: &[(&str, &Part)]) -> [f64; 3] {
        let least = |of: fn(&Part) -> f64| group.iter().map(|(_, part)| of(part)).fold(f64::MAX, f64::min);
        let done = group.iter().map(|(_, part)| part.done_ms).fold(0.0, f64::max);
        [least(|part| part.requested_ms), least(|part| part.first_byte_ms), done]
            .map(|ms| (ms - self.first_ms) / 1e3)
    }

    fn buffer(&self, most: usize) -> String {
        let Some(played) = self.run.playback().filter(|_| self.run.is_film()) else { return String::new() };
        let every = played.buffer.len().div_ceil(most * 2).max(1);
        let in_s = |ms: f64| (ms - self.first_ms) / 1e3;
        let points: Vec<(f64, f64)> =
            played.buffer.iter().step_by(every).map(|(at, level)| (in_s(*at), level / 1e3)).collect();
        let highest = points.iter().filter(|point| point.0 <= self.length_s).map(|point| point.1);
        let highest = highest.fold(0.0, f64::max);
        let mut panel = self.panel("Viewer's buffer, s of media; shaded, stalls", 90, highest * 1.06);
        let stalls: Vec<([f64; 4], String)> = played
            .stalls
            .iter()
            .filter(|stall| in_s(stall.from_ms) < self.length_s)
            .take(most)
            .map(|stall| ([in_s(stall.from_ms), in_s(stall.to_ms), 0.0, highest * 1.06], "stall".into()))
            .collect();
        panel.boxes("stall", &stalls);
        let within: Vec<(f64, f64)> = points.into_iter().filter(|point| point.0 <= self.length_s).collect();
        panel.line("fg", &within);
        let alt = format!(
            "Contiguous media in the buffer: at most {} s; playback starts {} after the \
             first request; {} stalls of {} in all.",
            short(highest),
            seconds(played.qoe.startup_delay_ms.unwrap_or(0.0)),
            played.qoe.rebuffer_count,
            seconds(played.qoe.rebuffer_ms)
        );
        self.finish(panel, &alt, &[])
    }

    fn notes(&self, steps: usize, merged: usize) -> String {
        let mut text = String::new();
        let mut said = Vec::new();
        let step_s = self.length_s / steps as f64;
        if step_s > 0.11 {
            said.push(format!("Samples are put together in steps of {}.", seconds(step_s * 1e3)));
        }
        if merged > 1 {
            said.push(format!("Up to {merged} neighbouring segments share a bar."));
        }
        if !said.is_empty() {
            let _ = write!(text, "<p class=\"note\">{}</p>", said.join(" "));
        }
        text
    }
}

/// The marks in words.
fn list(marks: &[Mark]) -> String {
    const SHOWN: usize = 12;
    if marks.is_empty() {
        return String::new();
    }
    let mut text = String::from("<ul class=\"marks\">");
    for mark in marks.iter().take(SHOWN) {
        let at = if mark.at_s < 0.0 { "before the first request".into() } else { seconds(mark.at_s * 1e3) };
        let _ =
            write!(text, "<li><span class=\"key {}\">{at}:</span> {}</li>", mark.class, escape(&mark.what));
    }
    if marks.len() > SHOWN {
        let more = marks.len() - SHOWN;
        let _ = write!(text, "<li>and {more} more, in csv/faults.csv and csv/links.csv</li>");
    }
    text + "</ul>"
}

/// Means where a step has several samples; where it has none, as the step before.
fn fill(steps: &mut [TimelineStep]) {
    let mut before = TimelineStep::default();
    for step in steps {
        if step.samples == 0 {
            *step = TimelineStep { drops: 0, resent: 0, ..before };
        } else {
            step.goodput_kbit /= f64::from(step.samples);
        }
        before = *step;
    }
}

/// The queue's time. In an outage there is none, and its bytes count at the rate before.
fn queue_ms(down: &Counters, rate_before_kbit: Option<f64>) -> f64 {
    let before = rate_before_kbit.map(|rate| down.queue_bytes as f64 * 8.0 / rate);
    down.queue_ms.or(before).unwrap_or(0.0)
}

/// Returns the retransmissions where the servers report them, else the segments that arrived out of order.
fn resent(sample: &Sample, told: bool) -> u64 {
    if told {
        sample.sender.as_ref().map_or(0, |sender| sender.retransmits_total)
    } else {
        sample.tcp.as_ref().and_then(|tcp| tcp.rcv_out_of_order).unwrap_or(0)
    }
}

fn describe(group: &[(&str, &Part)]) -> String {
    let sizes = group.iter().map(|(_, part)| part.to_byte.saturating_sub(part.from_byte));
    let bytes = sizes.fold(0u64, u64::saturating_add);
    let (first, last) = (group[0].0, group[group.len() - 1].0);
    let names = if first == last { first.to_string() } else { format!("{first} to {last}") };
    format!("{names}, {:.0} kB", bytes as f64 / 1e3)
}
