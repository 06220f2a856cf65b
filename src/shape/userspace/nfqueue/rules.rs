//! The iptables rules that hand a link's packets over: rendered purely, applied by one small function.
//!
//! They stand in two chains of their own in the raw table, before connection tracking, so that
//! removing them touches no rule of anybody else. No rule says `--queue-bypass`: where nobody
//! listens any more the kernel drops, and nothing passes unshaped.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use super::queue_number;
use crate::shape::netem::tc;
use crate::units::{Direction, LinkId};

/// The chains, and the hooks that jump to them.
const CHAINS: [(&str, &str, Direction); 2] =
    [("PREROUTING", "TWINLINK-PRE", Direction::Down), ("OUTPUT", "TWINLINK-OUT", Direction::Up)];

/// A link whose packets are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tapped {
    pub link: LinkId,
    pub server: IpAddr,
}

/// The two address families, each with programs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn of(server: IpAddr) -> Family {
        if server.to_canonical().is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The program and its variants. A kernel may know the newer interface, the older one or both,
    /// and a distribution may name either plainly `iptables`.
    fn programs(self) -> [&'static str; 3] {
        match self {
            Family::V4 => ["iptables", "iptables-nft", "iptables-legacy"],
            Family::V6 => ["ip6tables", "ip6tables-nft", "ip6tables-legacy"],
        }
    }
}

/// Whether a program need not be asked: listing a legacy table creates it, so one that the kernel does
/// not have in this namespace is left alone.
fn holds_nothing(program: &str) -> bool {
    let Some(plain) = program.strip_suffix("-legacy") else { return false };
    let list = if plain == "ip6tables" { "ip6_tables_names" } else { "ip_tables_names" };
    let tables = std::fs::read_to_string(format!("/proc/self/net/{list}")).unwrap_or_default();
    !tables.lines().any(|table| table == "raw")
}

/// Our rules in the raw table: the jumps to each chain, and the chains that exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present {
    jumps: [usize; 2],
    chains: [bool; 2],
}

impl Present {
    /// Reads what `iptables -t raw -S` prints.
    pub(crate) fn parse(rules: &str) -> Present {
        let mut present = Present::default();
        for (index, (hook, chain, _)) in CHAINS.iter().enumerate() {
            present.chains[index] = rules.lines().any(|line| line.trim() == format!("-N {chain}"));
            let jump = format!("-A {hook} -j {chain}");
            present.jumps[index] = rules.lines().filter(|line| line.trim() == jump).count();
        }
        present
    }

    pub(crate) fn anything(&self) -> bool {
        *self != Present::default()
    }
}

/// Renders what makes the rules be those of `links`, whatever was there of ours; no links: none.
pub(crate) fn render(present: Present, family: Family, links: &[Tapped]) -> String {
    let links: Vec<&Tapped> = links.iter().filter(|link| Family::of(link.server) == family).collect();
    let mut text = String::from("*raw\n");
    for (index, (hook, chain, _)) in CHAINS.iter().enumerate() {
        if !links.is_empty() || present.chains[index] {
            // Naming a chain makes it, or empties it.
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for _ in 0..present.jumps[index] {
            let _ = writeln!(text, "-D {hook} -j {chain}");
        }
    }
    for (index, (hook, chain, direction)) in CHAINS.iter().enumerate() {
        if links.is_empty() {
            if present.chains[index] {
                let _ = writeln!(text, "-X {chain}");
            }
            continue;
        }
        if family == Family::V6 {
            // Neighbour discovery is IPv6's ARP, and ARP is never held.
            for kind in 133..=137 {
                let _ = writeln!(text, "-A {chain} -p ipv6-icmp --icmpv6-type {kind} -j RETURN");
            }
        }
        for link in &links {
            let end = if *direction == Direction::Down { "-s" } else { "-d" };
            let queue = queue_number((link.link, *direction));
            let server = link.server.to_canonical();
            let _ = writeln!(text, "-A {chain} {end} {server} -j NFQUEUE --queue-num {queue}");
        }
        let _ = writeln!(text, "-I {hook} 1 -j {chain}");
    }
    text.push_str("COMMIT\n");
    text
}

/// Runs a program and returns its output.
///
/// # Errors
/// It cannot run, or fails; the text has its error output.
fn run(program: &str, args: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", tc::run::path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why on stderr, which is what gets reported.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        bail!("{program} {} says: {}", args.join(" "), words.join("; "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_missing(program: &str, error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| tc::run::is_missing(program, &tc::run::path(), cause))
}

/// Returns our rules in a family's raw table, as this program sees it.
fn present(program: &str) -> Result<Present> {
    run(program, &["-w", "-t", "raw", "-S"], "").map(|rules| Present::parse(&rules))
}

/// Takes away all our rules, whoever put them there; true if there were any.
///
/// # Errors
/// Rules that are there and cannot be removed.
pub(crate) fn remove_all() -> Result<bool> {
    let mut found = false;
    for family in Family::BOTH {
        for program in family.programs().into_iter().filter(|program| !holds_nothing(program)) {
            let present = match present(program) {
                Ok(present) => present,
                Err(error) if error.is::<std::io::Error>() && !is_missing(program, &error) => {
                    return Err(error);
                }
                Err(_) => continue,
            };
            if present.anything() {
                restore(program, &render(present, family, &[]))
                    .context("cannot remove the rules that hand packets over")?;
                found = true;
            }
        }
    }
    Ok(found)
}

fn restore(program: &str, text: &str) -> Result<()> {
    run(&format!("{program}-restore"), &["-w", "--noflush"], text).map(drop)
}

/// Makes the rules be those of `links`.
///
/// # Errors
/// No iptables, no NFQUEUE target in the kernel, or no privilege; with what to do about it.
pub(crate) fn apply(links: &[Tapped]) -> Result<()> {
    for family in Family::BOTH {
        if links.iter().any(|link| Family::of(link.server) == family) {
            install(family, links)?;
        } else if let Some((program, present)) = with_rules(family) {
            restore(program, &render(present, family, links))?;
        }
    }
    Ok(())
}

/// Whether any of our rules stand, whoever put them there.
pub(crate) fn any() -> bool {
    Family::BOTH.into_iter().any(|family| with_rules(family).is_some())
}

fn with_rules(family: Family) -> Option<(&'static str, Present)> {
    let programs = family.programs().into_iter().filter(|program| !holds_nothing(program));
    let mut found = programs.filter_map(|program| Some((program, present(program).ok()?)));
    found.find(|(_, present)| present.anything())
}

/// One program that has our rules already comes first.
fn install(family: Family, links: &[Tapped]) -> Result<()> {
    let known: Vec<&str> = with_rules(family).map(|(program, _)| program).into_iter().collect();
    first_that_can(family, &known, |program| {
        present(program).and_then(|present| restore(program, &render(present, family, links)))
    })
}

/// Returns the version that the first installed program prints.
pub(crate) fn version() -> Option<String> {
    Family::V4.programs().into_iter().find_map(|program| run(program, &["-V"], "").ok())
}

/// Puts a rule that hands packets over into a chain of this name, which nothing leads to, and takes both away.
///
/// # Errors
/// As for [`apply`].
pub(crate) fn attempt(chain: &str) -> Result<()> {
    first_that_can(Family::V4, &[], |program| {
        let iptables = |args: &[&str]| run(program, &[&["-w", "-t", "raw"], args].concat(), "");
        iptables(&["-N", chain])?;
        let rule = iptables(&["-A", chain, "-j", "NFQUEUE", "--queue-num", "65535"]);
        let _ = iptables(&["-F", chain]);
        let _ = iptables(&["-X", chain]);
        rule.map(drop)
    })
}

/// Tries a family's programs until one can do it.
fn first_that_can(
    family: Family,
    first: &[&'static str],
    attempt: impl Fn(&str) -> Result<()>,
) -> Result<()> {
    let mut reasons = Vec::new();
    for program in first.iter().copied().chain(family.programs()) {
        match attempt(program) {
            Ok(()) => return Ok(()),
            Err(error) if is_missing(program, &error) => {}
            // The system refuses to start a program at all.
            Err(error) if error.is::<std::io::Error>() => {
                return Err(error.context("cannot hand packets to this process"));
            }
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    if reasons.is_empty() {
        return Err(anyhow!(
            "cannot hand packets to this process: {} not found: install iptables",
            family.programs()[0]
        ));
    }
    reasons.dedup();
    bail!(
        "cannot hand packets to this process: {}; the kernel needs the NFQUEUE target \
         (CONFIG_NETFILTER_XT_TARGET_NFQUEUE) and the process NET_ADMIN",
        reasons.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Vec<Tapped> {
        vec![
            Tapped { link: LinkId::A, server: "10.0.0.2".parse().unwrap() },
            Tapped { link: LinkId::B, server: "fd00::3".parse().unwrap() },
        ]
    }

    #[test]
    fn rules_are_rendered_for_each_family_alone() {
        let text = render(Present::default(), Family::V4, &links());
        assert_eq!(
            text,
            "*raw\n:TWINLINK-PRE - [0:0]\n:TWINLINK-OUT - [0:0]\n\
             -A TWINLINK-PRE -s 10.0.0.2 -j NFQUEUE --queue-num 4450\n-I PREROUTING 1 -j TWINLINK-PRE\n\
             -A TWINLINK-OUT -d 10.0.0.2 -j NFQUEUE --queue-num 4451\n-I OUTPUT 1 -j TWINLINK-OUT\nCOMMIT\n"
        );
        assert!(!text.contains("bypass"));
        let text = render(Present::default(), Family::V6, &links());
        assert!(text.contains("-A TWINLINK-PRE -s fd00::3 -j NFQUEUE --queue-num 4452"), "{text}");
        assert!(text.contains("--icmpv6-type 135 -j RETURN"), "{text}");
        assert!(!text.contains("10.0.0.2"), "{text}");
    }

    #[test]
    fn what_was_there_is_replaced_and_what_is_others_is_left() {
        let rules = "-P PREROUTING ACCEPT\n-P OUTPUT ACCEPT\n-N TWINLINK-OUT\n-N TWINLINK-PRE\n\
                       -A PREROUTING -j TWINLINK-PRE\n-A PREROUTING -j TWINLINK-PRE\n\
                       -A PREROUTING -j TWINLINK-PRETTY\n-A OUTPUT -j TWINLINK-OUT\n\
                       -A TWINLINK-PRE -s 10.0.0.9/32 -j NFQUEUE --queue-num 4450\n";
        let present = Present::parse(rules);
        assert_eq!(present, Present { jumps: [2, 1], chains: [true, true] });
        assert!(present.anything() && !Present::parse("-P OUTPUT ACCEPT\n").anything());
        assert_eq!(
            render(present, Family::V4, &[]),
            "*raw\n:TWINLINK-PRE - [0:0]\n-D PREROUTING -j TWINLINK-PRE\n-D PREROUTING -j TWINLINK-PRE\n\
             :TWINLINK-OUT - [0:0]\n-D OUTPUT -j TWINLINK-OUT\n-X TWINLINK-PRE\n-X TWINLINK-OUT\nCOMMIT\n"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_fails() {
        assert!(is_missing("no-such-program-at-all", &run("no-such-program-at-all", &[], "").unwrap_err()));
        assert!(!is_missing("false", &run("false", &[], "").unwrap_err()));
    }
}
