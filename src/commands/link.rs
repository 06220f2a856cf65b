//! `twinlink link …`: reads and changes links from the command line.
//!
//! A change goes to the control socket of the process that shapes, here or in a lab of this user, so that a link
//! has one owner and its log has the change. If none runs, `show` and `clear` act on the links that a killed
//! process left.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, ColumnConstraint, Table, presets};

use super::hold::{self, HoldArgs};
use crate::config::file::FileSource;
use crate::config::profile::load;
use crate::config::profile::{Loss, Profile, Queue, Shape};
use crate::config::trace;
use crate::lab::registry;
use crate::lab::registry::LabName;
use crate::shape::active_shaping::{ActiveShaping, Counters, Owner, StationLoad};
use crate::shape::control::client;
use crate::shape::control::client::ControlRequest;
use crate::shape::guard;
use crate::shape::netem;
use crate::shape::netem::tc::render;
use crate::shape::netem::tc::render::{Child, DeviceDirection};
use crate::shape::userspace::nfqueue;
use crate::text::{fit, print, print_json, tell};
use crate::units::{Direction, LinkId, Rate};

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum LinkCommand {
    /// Give a link another profile, of a client or a program under `link hold` that runs
    Set {
        /// The link: a or b
        link: LinkId,
        /// A profile's name, or the path of a .toml file
        profile: String,
        #[command(flatten)]
        place: Place,
    },
    /// Shape links for as long as another program runs
    Hold(HoldArgs),
    /// Show what is in force, read from the kernel
    Show {
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List the profiles
    List {
        /// One JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Take shaping away, from one link or from both
    Clear {
        link: Option<LinkId>,
        #[command(flatten)]
        place: Place,
    },
    /// Print the tc lines of a profile; needs no privilege
    Plan(PlanArgs),
}

/// Where the links are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// The lab whose links are meant, where several run (twinlink lab --list names them)
    #[arg(long, value_name = "NAME")]
    pub lab: Option<LabName>,
    /// Nobody reads what it would tell.
    #[arg(skip)]
    pub quiet: bool,
}

impl Place {
    /// Asks the process that shapes: in the named lab, else here, else in the only lab that runs, of which it
    /// tells then. None where there is none.
    fn ask(&self, request: &ControlRequest) -> Result<Option<Vec<ActiveShaping>>> {
        if self.lab.is_none() {
            let answer = client::ask(request)?;
            if answer.is_some() || guard::is_own_namespace() {
                return Ok(answer);
            }
        }
        let Some(lab) = registry::find(self.lab.as_ref())? else { return Ok(None) };
        let (_open, socket) = lab.control()?;
        match client::ask_at(&socket, request) {
            Ok(None) => bail!(
                "cannot reach links in the lab {}: no client runs in it, and no program under \"twinlink link hold\"",
                lab.name
            ),
            answer => {
                let rows = answer.with_context(|| format!("cannot do this in the lab {}", lab.name))?;
                // Standard output may be one JSON object.
                if !self.quiet {
                    tell(&format!("in {} ({}):", lab.name, lab.command));
                }
                Ok(rows)
            }
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// The link: a or b
    link: LinkId,
    /// A profile's name, or the path of a .toml file
    profile: String,
    /// The interface that leads to the server
    #[arg(long, default_value = "DEV", hide_default_value = true)]
    dev: String,
    /// The server's address
    #[arg(long, value_name = "ADDRESS")]
    server: Option<IpAddr>,
    /// Seeds the losses, where netem can be given a seed (Linux and iproute2 6.6 on)
    #[arg(long)]
    seed: Option<u64>,
    /// Print all steps of a trace, not only the first
    #[arg(long)]
    all: bool,
}

pub(crate) fn main(command: LinkCommand) -> Result<()> {
    match command {
        LinkCommand::Set { link, profile, place } => print_rows(&set_profile(link, &profile, &place)?, false),
        LinkCommand::Hold(args) => hold::main(&args),
        LinkCommand::Show { json, place } => {
            print_rows(&place.ask(&ControlRequest::Show)?.map_or_else(crate::shape::in_force, Ok)?, json)
        }
        LinkCommand::List { json } => list(json),
        LinkCommand::Clear { link, place } => clear(link, &place),
        LinkCommand::Plan(args) => plan(&args),
    }
}

/// Gives a link a profile. Returns the links in force then.
///
/// # Errors
/// There is no such profile, or nobody shapes the link.
pub(super) fn set_profile(link: LinkId, profile: &str, place: &Place) -> Result<Vec<ActiveShaping>> {
    let profile = Box::new(load::load(profile, link)?);
    match place.ask(&ControlRequest::Set { link, profile })? {
        Some(rows) => Ok(rows),
        None => bail!(
            "cannot set link {link}: no process shapes links here: start twinlink lab, or in a lab a client or a \
             program under \"twinlink link hold\""
        ),
    }
}

fn clear(link: Option<LinkId>, place: &Place) -> Result<()> {
    let rows = match place.ask(&ControlRequest::Clear { link })? {
        Some(rows) => rows,
        None => {
            crate::shape::clean_up()?;
            show()?
        }
    };
    print(
        link.map_or("links a and b are cleared\n".into(), |link| format!("link {link} is cleared\n"))
            .as_str(),
    )?;
    print_rows(&rows, false)
}

/// Returns the links in force here: asked of the running client, else read from the kernel.
pub(crate) fn show() -> Result<Vec<ActiveShaping>> {
    client::ask(&ControlRequest::Show)?.map_or_else(crate::shape::in_force, Ok)
}

fn print_rows(rows: &[ActiveShaping], json: bool) -> Result<()> {
    if json {
        return print_json(&serde_json::json!({ "links": rows }));
    }
    if rows.is_empty() {
        return print("no link is shaped\n");
    }
    let mut shapes = new_table(&["link", "profile", "backend", "rate", "delay", "jitter", "loss", "queue"]);
    let mut counts = new_table(&["link", "packets", "bytes", "dropped", "queued", "queued B", "most"]);
    for row in rows {
        let (shape, counters) = (&row.shape, &row.counters);
        let link = format!("{} {}", row.link, row.direction);
        shapes.add_row([
            link.clone(),
            row.profile.clone(),
            row.backend.clone(),
            rate_now(row),
            milliseconds(shape.delay.ms()),
            milliseconds(shape.jitter.ms()),
            loss(shape),
            queue(shape),
        ]);
        counts.add_row([
            link,
            counters.packets.to_string(),
            counters.bytes.to_string(),
            dropped(counters),
            counters.queue_packets.to_string(),
            counters.queue_bytes.to_string(),
            counters.queue_packets_max.map_or("-".into(), |most| format!("{most} p")),
        ]);
    }
    align(&mut shapes, 3..=7);
    align(&mut counts, 1..=6);
    let dead = if rows.iter().any(|row| row.owner == Owner::Dead) {
        "A run that was killed left this; the next one, or \"twinlink link clear\", removes it.\n"
    } else {
        ""
    };
    print(&format!("{shapes}\n\n{counts}\n\n{}{}{dead}", notes(rows), airtimes(rows)))
}

/// A trace's rate is that of the moment.
fn rate_now(row: &ActiveShaping) -> String {
    match row.counters.rate_kbit.filter(|_| row.trace.is_some()) {
        Some(0.0) => "outage".into(),
        Some(kbit) => Rate::from_bits_per_s((kbit * 1e3).round() as u64).to_string(),
        None => row.shape.rate.to_string(),
    }
}

/// Drops by their cause, as far as the backend can tell.
fn dropped(counters: &Counters) -> String {
    match (counters.dropped_queue, counters.dropped_loss) {
        (0, None | Some(0)) => "0".into(),
        (both, None) => format!("{both} by queue or loss"),
        (queue, Some(loss)) => format!("{queue} by queue, {loss} by loss"),
    }
}

/// Lines about what carries each link and why, and which traces are played.
fn notes(rows: &[ActiveShaping]) -> String {
    let why = |row: &ActiveShaping| {
        Some(format!("link {} is on {}: {}\n", row.link, row.backend, row.why.as_ref()?))
    };
    let trace = |row: &ActiveShaping| {
        let (link, direction, trace) = (row.link, row.direction, row.trace.as_ref()?);
        Some(format!("link {link} {direction} follows the trace {trace}: the rate is that of this moment\n"))
    };
    let mut lines: Vec<String> = rows.iter().filter_map(why).collect();
    // Both directions of a link are on the same.
    lines.dedup();
    lines.extend(rows.iter().filter_map(trace));
    lines.concat()
}

/// A line about the shared channel; empty without one.
fn airtimes(rows: &[ActiveShaping]) -> String {
    let Some(busy) = rows.iter().find_map(|row| row.airtimes.as_ref()) else { return String::new() };
    let share = |busy: &StationLoad| format!("{} {:.0} %", busy.station, busy.share * 100.0);
    format!("airtime since the last reading: {}\n", busy.iter().map(share).collect::<Vec<_>>().join(", "))
}

fn list(json: bool) -> Result<()> {
    let profiles = load::list()?;
    if json {
        let entries: Vec<serde_json::Value> = profiles.iter().map(listed).collect();
        return print_json(&entries);
    }
    let mut values = new_table(&["profile", "", "rate", "delay", "RTT", "jitter", "loss", "queue"]);
    let mut said = new_table(&["profile", "source", "what it is"]);
    for (name, source, profile) in &profiles {
        if let Ok(profile) = profile {
            for direction in Direction::BOTH {
                values.add_row(list_row(name, profile, direction));
            }
        }
        let what = match profile {
            Ok(profile) => profile.description.clone(),
            Err(error) => format!("not valid: {error:#}"),
        };
        said.add_row([name.clone(), source.to_string(), what]);
    }
    align(&mut values, 2..=7);
    print(&format!("{values}\n\n{said}\n"))
}

fn listed((name, source, profile): &(String, FileSource, Result<Profile>)) -> serde_json::Value {
    match profile {
        Ok(profile) => serde_json::json!({ "name": name, "source": source.to_string(), "profile": profile }),
        Err(error) => {
            serde_json::json!({ "name": name, "source": source.to_string(), "error": format!("{error:#}") })
        }
    }
}

fn list_row(name: &str, profile: &Profile, direction: Direction) -> Vec<String> {
    let shape = profile.shape(direction);
    let rate = match &shape.trace {
        Some(trace) => format!("{:.1}mbit mean", trace.mean_kbit() / 1e3),
        None => shape.rate.to_string(),
    };
    // The first of a link's two rows shows the values of both.
    let of_link = |text: String| if direction == Direction::Down { text } else { String::new() };
    vec![
        of_link(name.to_string()),
        direction.to_string(),
        rate,
        milliseconds(shape.delay.ms()),
        of_link(milliseconds(profile.down.delay.ms() + profile.up.delay.ms())),
        milliseconds(shape.jitter.ms()),
        loss(shape),
        queue(shape),
    ]
}

fn plan(args: &PlanArgs) -> Result<()> {
    let profile = load::load(&args.profile, args.link)?;
    let server = args.server.map(|server| server.to_canonical());
    let places = Direction::BOTH.map(|direction| DeviceDirection {
        link: args.link,
        direction,
        dev: args.dev.clone(),
        server: server.map_or("SERVER".into(), |server| server.to_string()),
        ipv6: server.is_some_and(|server| server.is_ipv6()),
    });
    let shown_steps = if args.all { usize::MAX } else { SHOWN_STEPS };
    let refused = nfqueue::refusals(&profile).into_iter().next();
    let nearly = match (refused, netem::check::difference(&profile)) {
        (Some(refused), _) => format!("# twinlink holds this link by netem alone; of userspace, {refused}\n"),
        (None, Some(nearly)) => {
            format!("# by default twinlink holds this link in userspace; of netem, {nearly}\n")
        }
        (None, None) => String::new(),
    };
    print(&format!("{nearly}{}", plan_text(&places, &profile, args.seed, shown_steps)))
}

/// Returns the script that shapes a link where nothing is shaped yet. Its devices belong to no process.
fn plan_text(places: &[DeviceDirection], profile: &Profile, seed: Option<u64>, shown_steps: usize) -> String {
    let mut ip = Vec::new();
    let mut tc = vec![render::add_clsact(&places[0].dev)];
    let mut redirects = Vec::new();
    for place in places {
        let shape = profile.shape(place.direction);
        let alias = netem::alias(place, shape, &profile.name, 0, true);
        ip.extend(render::make_ifb(place, &alias.render()));
        let seed = seed.map(|seed| render::seed_of(seed, place.link, place.direction));
        tc.extend(render::set_up(place, shape, Child::needed_by(shape), seed));
        redirects.push(render::redirect(place));
    }
    tc.extend(redirects);
    let note = if tc.iter().any(|line| line.contains("distribution uniform")) {
        "# iproute2 ships no table uniform.dist: twinlink hands it one through $TC_LIB_DIR\n"
    } else {
        ""
    };
    let schedule: String =
        Direction::BOTH.map(|direction| schedule(profile.shape(direction), direction, shown_steps)).concat();
    format!(
        "ip -batch - <<'END'\n{}\nEND\n{note}tc -batch - <<'END'\n{}\nEND\n{schedule}",
        ip.join("\n"),
        tc.join("\n")
    )
}

/// The steps of a trace that a plan prints without `--all`.
const SHOWN_STEPS: usize = 20;

/// Returns a direction's trace as comments of a script: running the script plays no trace.
fn schedule(shape: &Shape, direction: Direction, shown_steps: usize) -> String {
    let Some(trace) = &shape.trace else { return String::new() };
    let length_s = trace.length() as f64 / 1e9;
    let end = if trace.looped() { "then again" } else { "then its last rate holds" };
    let mut text = format!(
        "# {direction} by the trace {}: {} steps in {length_s} s, mean {:.3} Mbit/s, {end}\n",
        trace.file(),
        trace.steps().len(),
        trace.mean_kbit() / 1e3
    );
    for step in trace.steps().iter().take(shown_steps) {
        let rate = if trace::is_outage(step.rate) { "outage".into() } else { step.rate.to_string() };
        let delay = step.delay.map(|delay| format!(" delay {delay}")).unwrap_or_default();
        let loss = step.loss.map(|loss| format!(" loss {loss}")).unwrap_or_default();
        text += &format!("# {:>10.3} s {rate}{delay}{loss}\n", step.at as f64 / 1e9);
    }
    let more = trace.steps().len().saturating_sub(shown_steps);
    if more > 0 {
        text += &format!("# and {more} more: --all prints them\n");
    }
    text
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    fit(&mut table);
    // A name is typed as it is shown.
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

fn align(table: &mut Table, columns: std::ops::RangeInclusive<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn milliseconds(ms: f64) -> String {
    if ms == 0.0 { "-".into() } else { format!("{} ms", (ms * 1e3).round() / 1e3) }
}

fn loss(shape: &Shape) -> String {
    let mean = shape.loss.mean();
    if mean.is_zero() {
        return "-".into();
    }
    let share = format!("{}%", (mean.percent() * 1e4).round() / 1e4);
    match shape.loss {
        Loss::Random(_) => share,
        Loss::GilbertElliott(_) => format!("{share} bursts"),
    }
}

fn queue(shape: &Shape) -> String {
    let queue = match shape.queue {
        Queue::CoDel(_) => shape.queue.to_string(),
        _ => format!("{} ms", (shape.queue_time().as_secs_f64() * 1e3).round()),
    };
    queue + &shape.cross.map_or(String::new(), |cross| format!(", with {cross}"))
}
