//! Finds out which features of the kernel and its tools work, by trial where that is allowed.
//!
//! Trials run in a temporary network namespace, or else, in a lab's own namespace, on a temporary device. If
//! neither is allowed, the module files decide. A device that carries packets is never touched.

use std::path::Path;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, anyhow, bail};

use super::guard;
use super::netem::tc::render::TRIAL_PREFIX;
use super::netem::tc::run;
use super::netem::tc::run::Tool;

/// A feature of the kernel that a backend needs.
pub struct Feature {
    pub name: &'static str,
    pub modules: &'static [&'static str],
    /// The remedy where it is missing.
    pub advice: &'static str,
    /// Whether it is tried on an ifb that is made for the trial.
    pub on_ifb: bool,
    /// Tries it; the feature is there if nothing fails. It may use devices and chains of this name.
    pub attempt: fn(&str) -> Result<()>,
}

impl Feature {
    /// The feature and the kernel's modules for it, in words.
    pub fn with_modules(&self) -> String {
        let plural = if self.modules.len() > 1 { "s" } else { "" };
        format!("{} (module{plural} {})", self.name, self.modules.join(", "))
    }
}

/// Whether a feature is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FeatureSupport {
    /// It works, and how that is known.
    Yes(&'static str),
    /// It does not, with what was said when it was tried.
    No(String),
    /// It could not be tried, and why.
    Unknown(String),
}

/// How it is known that a feature works where it was tried.
const TRIED: &str = "tried";

/// Judges each of the features. One that worked is not tried again: a change in the middle of a run must not
/// wait for a trial. One that was missing is, since it may have been loaded since.
pub(crate) fn features(
    needed: impl IntoIterator<Item = &'static Feature>,
) -> Vec<(&'static Feature, FeatureSupport)> {
    let needed: Vec<_> = needed.into_iter().collect();
    static WORKING: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut working = WORKING.lock().expect("nobody panics while holding the list of features");
    let untried: Vec<_> = needed.iter().copied().filter(|feature| !working.contains(&feature.name)).collect();
    let judged = if untried.is_empty() { Vec::new() } else { judge(&untried) };
    let works = judged.iter().filter(|(_, verdict)| *verdict == FeatureSupport::Yes(TRIED));
    working.extend(works.map(|(feature, _)| feature.name));
    let verdict =
        |feature: &Feature| judged.iter().find(|row| row.0.name == feature.name).map(|row| row.1.clone());
    let each = |feature| (feature, verdict(feature).unwrap_or(FeatureSupport::Yes(TRIED)));
    needed.into_iter().map(each).collect()
}

fn judge(needed: &[&'static Feature]) -> Vec<(&'static Feature, FeatureSupport)> {
    try_them(needed).unwrap_or_else(|why| {
        let why = format!("{why:#}");
        needed.iter().map(|feature| (*feature, by_files(feature, &why))).collect()
    })
}

/// Returns the missing features.
///
/// # Errors
/// A feature cannot be tried.
pub(crate) fn missing(needed: &'static [Feature]) -> Result<Vec<&'static Feature>> {
    let mut missing = Vec::new();
    for (feature, verdict) in features(needed) {
        match verdict {
            FeatureSupport::Yes(_) => {}
            FeatureSupport::No(_) => missing.push(feature),
            FeatureSupport::Unknown(why) => {
                bail!("cannot find out whether the kernel has {}: {why}", feature.name)
            }
        }
    }
    Ok(missing)
}

fn try_them(needed: &[&'static Feature]) -> Result<Vec<(&'static Feature, FeatureSupport)>> {
    if !guard::has_net_admin() {
        return Err(anyhow!("not tried: that takes the capability NET_ADMIN"));
    }
    let features = needed.to_vec();
    let work = move || {
        // SAFETY: unshare takes no pointers, and moves this thread alone into a new namespace, which
        // ends with it.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        moved.then(|| try_here(&features))
    };
    let apart = std::thread::Builder::new().spawn(work).context("cannot start a thread for the trial")?;
    let tried = apart.join().map_err(|_| anyhow!("the trial panicked"))?;
    match tried {
        Some(verdicts) => verdicts,
        None if guard::is_own_namespace() => try_here(needed),
        None => Err(anyhow!("not tried: that takes the capability SYS_ADMIN, or a lab's namespace")),
    }
}

/// Whether a trial failed because the system refused to start its tool: that says nothing of the kernel's
/// features.
fn is_no_answer(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error + 'static>::is::<std::io::Error>)
}

fn try_here(needed: &[&'static Feature]) -> Result<Vec<(&'static Feature, FeatureSupport)>> {
    let dev = format!("{TRIAL_PREFIX}{}", std::process::id());
    run::output(Tool::Ip, &["-V"])?;
    let device = match run::batch(Tool::Ip, &[format!("link add dev {dev} type ifb")]) {
        Err(error) if is_no_answer(&error) => return Err(error),
        device => device,
    };
    let verdicts = needed
        .iter()
        .map(|feature| {
            let outcome = match &device {
                Err(error) if feature.on_ifb => Err(anyhow!("{error:#}")),
                _ => (feature.attempt)(&dev),
            };
            let verdict = match outcome {
                Ok(()) => FeatureSupport::Yes(TRIED),
                Err(error) if is_no_answer(&error) => FeatureSupport::Unknown(format!("{error:#}")),
                Err(error) => FeatureSupport::No(format!("{error:#}")),
            };
            (*feature, verdict)
        })
        .collect();
    if device.is_ok() {
        run::batch(Tool::Ip, &[format!("link del dev {dev}")]).context("cannot remove the trial's device")?;
    }
    Ok(verdicts)
}

/// Judges by the module files: enough for a yes, never for a no, since a container sees none of them.
fn by_files(feature: &Feature, why: &str) -> FeatureSupport {
    let folder = Path::new("/lib/modules").join(kernel());
    let lists: String = ["modules.builtin", "modules.dep"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(folder.join(file)).ok())
        .collect();
    let there = |module: &&str| {
        Path::new("/sys/module").join(module).exists() || lists.contains(&format!("/{module}.ko"))
    };
    if feature.modules.iter().all(there) {
        return FeatureSupport::Yes("its modules are there");
    }
    FeatureSupport::Unknown(why.to_string())
}

/// From which version on iproute2 hands netem a seed, and from which on the kernel heeds it: one that is
/// older takes it without a word.
const SEED_SINCE: (u32, u32) = (6, 6);

/// Whether netem can be given a seed here.
pub(crate) fn can_seed() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        kernel_can_seed(&kernel()) && run::output(Tool::Tc, &["-V"]).is_ok_and(|text| tc_can_seed(&text))
    })
}

/// Whether an iproute2 that says this of its version hands over a seed.
pub(crate) fn tc_can_seed(version_text: &str) -> bool {
    iproute_version(version_text).is_some_and(|version| version >= SEED_SINCE)
}

/// Whether a kernel of this release heeds it.
pub(crate) fn kernel_can_seed(release: &str) -> bool {
    major_and_minor(release).is_some_and(|version| version >= SEED_SINCE)
}

/// The kernel's release, as `uname -r` prints it; empty where it is not told.
pub(crate) fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string()
}

/// Major and minor of "tc utility, iproute2-6.1.0, libbpf 1.1.2".
fn iproute_version(text: &str) -> Option<(u32, u32)> {
    major_and_minor(text.split("iproute2-").nth(1)?)
}

/// The first two numbers of "6.1.0-18-amd64" or "v2.20.3".
pub(crate) fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    let mut numbers = numbers.map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_iproute2_is_read() {
        assert_eq!(iproute_version("tc utility, iproute2-6.1.0, libbpf 1.1.2"), Some((6, 1)));
        assert_eq!(iproute_version("tc utility, iproute2-6.15.0"), Some((6, 15)));
        assert_eq!(iproute_version("tc utility, iproute2-ss200127"), None);
        assert_eq!(iproute_version(""), None);
        assert!(tc_can_seed("tc utility, iproute2-6.6.0") && !tc_can_seed("tc utility, iproute2-5.15.0"));
        assert!(
            kernel_can_seed("6.18.44-fc") && kernel_can_seed("6.6.0") && !kernel_can_seed("6.1.0-18-amd64")
        );
        assert!(!kernel_can_seed(""));
    }

    #[test]
    fn features_are_named_with_their_modules() {
        let features: Vec<_> = crate::shape::features().collect();
        assert_eq!(features[1].with_modules(), "tbf (module sch_tbf)");
        assert!(features[2].with_modules().ends_with("(modules sch_ingress, cls_u32, act_mirred)"));
    }

    #[test]
    fn files_never_tell_that_something_is_missing() {
        for feature in crate::shape::features() {
            assert!(!matches!(by_files(feature, "why"), FeatureSupport::No(_)));
        }
    }
}
