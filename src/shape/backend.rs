//! A backend makes a link's packets behave as a profile says: the trait, and the choice among backends.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use clap::builder::{MapValueParser, PossibleValuesParser, TypedValueParser, ValueParserFactory};

use super::active_shaping::ActiveShaping;
use super::active_trace::AppliedStep;
use super::kernel_support::Feature;
use crate::config::profile::Profile;
use crate::units::LinkId;

/// A link to be shaped.
#[derive(Clone, Debug)]
pub struct ShapingRequest {
    pub link: LinkId,
    pub server: IpAddr,
    pub profile: Profile,
}

/// How well a backend would carry some links.
#[derive(Debug)]
pub enum Fit {
    /// As their profiles say; with the reason, in a few words.
    Exactly(String),
    /// With a difference, which is named.
    Nearly(String),
}

/// Why a backend cannot carry some links: in a few words, and in full.
#[derive(Debug)]
pub struct Refusal {
    pub why: String,
    pub error: anyhow::Error,
}

/// One way to carry links. The [`super::Shaper`] says whether anything may be shaped here at all.
pub trait Backend: Send {
    /// Returns the name that users give and records carry.
    fn name(&self) -> &'static str;

    /// Returns what it needs of the kernel, for the doctor.
    fn features(&self) -> &'static [Feature];

    /// Says how well it would carry these links; `on_channel` if one of them is on a shared channel.
    ///
    /// # Errors
    /// It cannot do all of their profiles, or this kernel lacks what it needs.
    fn check(&self, requests: &[ShapingRequest], on_channel: bool) -> Result<Fit, Refusal>;

    /// Returns true if it is known to carry these links on this host. Asked where another does it nearly.
    fn is_proven(&self, _requests: &[ShapingRequest]) -> bool {
        true
    }

    /// Sets links up, all or none of them. Where it carries one to the same server already, the profile
    /// changes in place and the queue stays. Its rows tell `why` it carries them.
    fn set(&mut self, requests: &[ShapingRequest], whys: &[String]) -> Result<()>;

    /// Removes the shaping of one link, or of all.
    fn clear(&mut self, link: Option<LinkId>) -> Result<()>;

    /// Plays the traces of a link that it carries from now on, and returns when they began.
    fn play(&mut self, link: LinkId) -> Result<Instant>;

    /// Returns the steps of traces that took effect since the last call; none if all do, in time.
    fn take_applied_steps(&mut self) -> Option<Vec<AppliedStep>> {
        None
    }

    /// Returns a row for each direction of its links, without counters.
    fn rows(&self) -> Vec<ActiveShaping>;

    /// Returns the rows with counters; cheap enough for ten times a second.
    ///
    /// # Errors
    /// The process or device that carries the links is gone: the run cannot go on.
    fn read(&mut self) -> Result<Vec<ActiveShaping>>;

    /// Returns what went wrong since the last call (an overload); seen when counters are read.
    fn take_faults(&mut self) -> Vec<(LinkId, String)> {
        Vec::new()
    }

    /// Returns what the kernel says is in force, whichever process put it there.
    fn in_force(&self) -> Result<Vec<ActiveShaping>> {
        Ok(Vec::new())
    }

    /// Returns true if something stands that a killed process may have left.
    fn has_leftovers(&self) -> bool;

    /// Removes what killed processes left, also at these interfaces. The caller holds the namespace's lock.
    fn clean_up(&self, devs: &[String]) -> Result<()>;
}

/// Which backend the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// The first that does every profile exactly, else the first that does it nearly.
    Auto,
    Named(&'static str),
    /// Shape nothing, even where profiles are named.
    None,
}

impl BackendChoice {
    /// Picks a backend for these links, all of them: its place in `backends`, and for each link why it. A link
    /// that another backend would carry alone follows the others.
    ///
    /// # Errors
    /// The backend that was asked for cannot do all of them, or none can; with what each lacks.
    pub fn pick(
        self,
        backends: &[Box<dyn Backend>],
        requests: &[ShapingRequest],
        on_channel: bool,
    ) -> Result<(usize, Vec<String>)> {
        let (index, why) = self.pick_for(backends, requests, on_channel)?;
        let alone = |request| match self.pick_for(backends, std::slice::from_ref(request), on_channel) {
            Ok((same, own)) if same == index => own,
            _ => format!("as the other link: {why}"),
        };
        Ok((index, requests.iter().map(alone).collect()))
    }

    fn pick_for(
        self,
        backends: &[Box<dyn Backend>],
        requests: &[ShapingRequest],
        on_channel: bool,
    ) -> Result<(usize, String)> {
        let (mut nearly, mut passed_over, mut refusals) = (None, None, Vec::new());
        for (index, backend) in backends.iter().enumerate().filter(|(_, backend)| self.allows(backend.name()))
        {
            match backend.check(requests, on_channel) {
                Ok(Fit::Exactly(why)) if nearly.is_none() || backend.is_proven(requests) => {
                    return Ok((index, self.reason(passed_over.unwrap_or(why))));
                }
                Ok(Fit::Exactly(_)) => {}
                Ok(Fit::Nearly(difference)) => {
                    let why = format!("{} does it nearly: {difference}", backend.name());
                    let why = passed_over.get_or_insert(why).clone();
                    nearly.get_or_insert((index, self.reason(why)));
                }
                Err(refusal) => {
                    passed_over.get_or_insert(refusal.why);
                    refusals.push(refusal.error);
                }
            }
        }
        let in_words = |last: anyhow::Error, before: anyhow::Error| last.context(format!("{before:#}"));
        let refused = refusals.into_iter().rev().reduce(in_words);
        nearly.ok_or_else(|| refused.unwrap_or_else(|| anyhow::anyhow!("no backend was asked for")))
    }

    fn allows(self, name: &str) -> bool {
        match self {
            BackendChoice::Auto => true,
            BackendChoice::Named(named) => named == name,
            BackendChoice::None => false,
        }
    }

    /// The reason that rows tell: whether it was the user's wish, and the backend's own.
    pub fn reason(self, why: String) -> String {
        if self == BackendChoice::Auto { why } else { format!("asked for; {why}") }
    }

    fn named(text: String) -> BackendChoice {
        let name = super::names().find(|name| *name == text);
        if text == "auto" {
            BackendChoice::Auto
        } else {
            name.map_or(BackendChoice::None, BackendChoice::Named)
        }
    }
}

impl ValueParserFactory for BackendChoice {
    type Parser = MapValueParser<PossibleValuesParser, fn(String) -> BackendChoice>;

    fn value_parser() -> Self::Parser {
        let names = ["auto"].into_iter().chain(super::names()).chain(["none"]);
        PossibleValuesParser::new(names).map(BackendChoice::named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backend that carries nothing and says the same of every link.
    struct Says(&'static str, fn() -> Result<Fit, Refusal>, bool);

    impl Backend for Says {
        fn name(&self) -> &'static str {
            self.0
        }
        fn features(&self) -> &'static [Feature] {
            &[]
        }
        fn check(&self, _: &[ShapingRequest], _: bool) -> Result<Fit, Refusal> {
            self.1()
        }
        fn is_proven(&self, _: &[ShapingRequest]) -> bool {
            self.2
        }
        fn set(&mut self, _: &[ShapingRequest], _: &[String]) -> Result<()> {
            Ok(())
        }
        fn clear(&mut self, _: Option<LinkId>) -> Result<()> {
            Ok(())
        }
        fn play(&mut self, _: LinkId) -> Result<Instant> {
            Ok(Instant::now())
        }
        fn rows(&self) -> Vec<ActiveShaping> {
            Vec::new()
        }
        fn read(&mut self) -> Result<Vec<ActiveShaping>> {
            Ok(Vec::new())
        }
        fn has_leftovers(&self) -> bool {
            false
        }
        fn clean_up(&self, _: &[String]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn auto_prefers_the_first_that_is_exact_and_tells_why_not_an_earlier_one() {
        let exact = || Ok(Fit::Exactly("it can".into()));
        let nearly = || Ok(Fit::Nearly("bursts".into()));
        let refuses =
            || Err(Refusal { why: "it lacks x".into(), error: anyhow::anyhow!("cannot do it without x") });
        type Check = fn() -> Result<Fit, Refusal>;
        let pick = |choice: BackendChoice, first: Check, second: Check, proven: bool| {
            let backends: [Box<dyn Backend>; 2] =
                [Box::new(Says("one", first, true)), Box::new(Says("two", second, proven))];
            choice.pick_for(&backends, &[], false).map_err(|error| format!("{error:#}"))
        };
        let (auto, two) = (BackendChoice::Auto, BackendChoice::Named("two"));
        let of = |index, why: &str| Ok((index, why.to_string()));
        assert_eq!(pick(auto, exact, exact, true), of(0, "it can"));
        assert_eq!(pick(auto, nearly, exact, true), of(1, "one does it nearly: bursts"));
        assert_eq!(pick(auto, nearly, exact, false), of(0, "one does it nearly: bursts"));
        assert_eq!(pick(auto, nearly, refuses, true), of(0, "one does it nearly: bursts"));
        assert_eq!(pick(auto, refuses, exact, false), of(1, "it lacks x"));
        assert_eq!(pick(auto, refuses, nearly, false), of(1, "it lacks x"));
        assert_eq!(pick(two, exact, exact, false), of(1, "asked for; it can"));
        assert_eq!(pick(two, exact, nearly, false), of(1, "asked for; two does it nearly: bursts"));
        let both = "cannot do it without x: cannot do it without x";
        assert_eq!(pick(auto, refuses, refuses, true), Err(both.into()));
        assert_eq!(pick(two, exact, refuses, true), Err("cannot do it without x".into()));
    }

    #[test]
    fn every_choice_is_read_by_its_name() {
        let parsed = |text: &str| {
            let command = clap::Command::new("x");
            let parser = BackendChoice::value_parser();
            parser.parse_ref(&command, None, std::ffi::OsStr::new(text)).ok()
        };
        assert_eq!(parsed("auto"), Some(BackendChoice::Auto));
        assert_eq!(parsed("netem"), Some(BackendChoice::Named("netem")));
        assert_eq!(parsed("userspace"), Some(BackendChoice::Named("userspace")));
        assert_eq!(parsed("none"), Some(BackendChoice::None));
        assert_eq!(parsed("tbf"), None);
    }
}
