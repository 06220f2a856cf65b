//! The ways to a lab on this host: `twinlink lab` without root, Docker, Podman; and what stands in their way.

use std::process::{Command, Stdio};

use super::{Finding, read};
use crate::shape::kernel_support::major_and_minor;
use crate::shape::netem::tc::run;

/// The oldest compose that knows all that compose.yaml says.
const OLDEST_COMPOSE: (u32, u32) = (2, 20);

/// The oldest kernel with TCP's settings of compose.yaml in a network namespace.
pub(super) const OLDEST_KERNEL: (u32, u32) = (4, 15);

/// Users of a rootless container: its root, and nobody (65534), as whom the servers run.
const USERS: u64 = 65535;

/// Returns the ways; none inside a container.
pub(super) fn ways() -> Vec<Finding> {
    let inside = std::env::var("TWINLINK_LAB").is_ok_and(|value| value == "container");
    if inside {
        return Vec::new();
    }
    let rootless = match crate::lab::attempt() {
        Ok(()) => Finding::new("twinlink lab", Some(true), "runs without root, in a user namespace", ""),
        Err(why) => Finding::new("twinlink lab", Some(false), format!("{why:#}"), "docs/hosts.md says more"),
    };
    let server = "{{.ServerVersion}}, {{.OperatingSystem}}{{range .SecurityOptions}} {{.}}{{end}}";
    let podman = "{{.Version.Version}} {{.Host.Security.Rootless}} {{.Host.RemoteSocket.Exists}} \
                  {{.Host.RemoteSocket.Path}}{{range .Host.IDMappings.UIDMap}} {{.Size}}{{end}}";
    let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
    let session = std::path::Path::new(&runtime).join("systemd/private").exists();
    vec![
        rootless,
        selinux(read("/sys/fs/selinux/enforce").as_deref()),
        docker(ask("docker", &["info", "--format", server])),
        compose(ask("docker", &["compose", "version", "--short"])),
        self::podman(ask("podman", &["info", "--format", podman]), session),
    ]
}

/// Says what SELinux does, of its file `enforce`.
fn selinux(enforce: Option<&str>) -> Finding {
    let found = match enforce {
        Some("1") => "enforcing: containers see the folders that compose mounts, since it relabels them (:z)",
        Some(_) => "permissive",
        None => "not in use",
    };
    Finding::new("selinux", Some(true), found, "")
}

/// Judges docker's answer about its server: version, system and security options.
fn docker(answer: Result<String, String>) -> Finding {
    let advice = "needed for docker compose up only: install Docker Engine, or use twinlink lab";
    match answer {
        Ok(text) => {
            let (version, rest) = text.split_once(", ").unwrap_or((&text, ""));
            let mut found = version.to_string();
            for (mark, kind) in [("Docker Desktop", ", Docker Desktop"), ("name=rootless", ", rootless")] {
                found += if rest.contains(mark) { kind } else { "" };
            }
            Finding::new("docker", Some(true), found, "")
        }
        Err(why) => Finding::new("docker", Some(false), why, advice),
    }
}

/// Judges what docker answered to a question for its compose plugin's version.
fn compose(answer: Result<String, String>) -> Finding {
    let name = "docker compose";
    match answer {
        Ok(version) => {
            let ok = major_and_minor(&version).map(|version| version >= OLDEST_COMPOSE);
            Finding::new(name, ok, version, "upgrade the compose plugin to version 2.20 or later")
        }
        Err(why) if why == NOT_FOUND => Finding::new(name, Some(false), why, "it comes with Docker Engine"),
        // Without its plugin, docker takes the word for one of its own commands, and the option for a mistake.
        Err(why) => Finding::new(
            name,
            Some(false),
            format!("docker has no compose plugin that answers; it says: {why}"),
            "install the compose plugin, version 2.20 or later: docker-compose-plugin of Docker's own packages, \
             docker-compose-v2 of Ubuntu's, docker-compose of Debian's (13 on) or Fedora's",
        ),
    }
}

/// Judges podman's answer: version, whether it is rootless, whether its socket is there, where that is, and
/// the sizes of its ranges of users. `session` tells whether systemd runs a session of this user.
fn podman(answer: Result<String, String>, session: bool) -> Finding {
    let name = "podman";
    let text = match answer {
        Ok(text) => text,
        Err(why) => {
            return Finding::new(name, Some(false), why, "needed only to run the compose lab without Docker");
        }
    };
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (version, rootless, socket_is_there, socket) = (word(), word() == "true", word() == "true", word());
    let socket = if socket.contains("://") { socket.to_string() } else { format!("unix://{socket}") };
    let users: u64 = words.filter_map(|size| size.parse::<u64>().ok()).sum();
    let kind = if rootless { "rootless" } else { "as root" };
    let (scope, of_user) = if rootless { (" --user", "$USER's ") } else { ("", "") };
    let (lack, advice) = if rootless && users < USERS {
        (
            format!(", with {users} users in its containers, of which the servers need {USERS}"),
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER && podman system migrate"
                .to_string(),
        )
    } else if rootless && !session {
        (
            ", without a systemd session of this user, which health checks need: compose waits for ever"
                .into(),
            "log in as this user (not with su or sudo), or: sudo loginctl enable-linger $USER".into(),
        )
    } else if !socket_is_there {
        (
            format!(", without {of_user}socket for docker compose"),
            format!("systemctl{scope} enable --now podman.socket (podman-compose 1.6 works without)"),
        )
    } else {
        (format!("; for docker compose: export DOCKER_HOST={socket}"), String::new())
    };
    Finding::new(name, Some(advice.is_empty()), format!("{version}, {kind}{lack}"), &advice)
}

/// Why a program does not answer that is not there.
const NOT_FOUND: &str = "not found";

/// Returns the first line that the program prints.
///
/// # Errors
/// One line says why it does not answer.
fn ask(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = output.map_err(|error| match run::is_missing(program, &path, &error) {
        true => NOT_FOUND.to_string(),
        false => format!("cannot be started: {error}"),
    })?;
    let text =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().trim().to_string();
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() && !said.is_empty() {
        return Ok(said);
    }
    Err(if complaint.is_empty() { format!("no answer ({})", output.status) } else { complaint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compose_is_judged_by_its_minor_version_too() {
        assert_eq!(major_and_minor("v2.20.3-desktop.1"), Some((2, 20)));
        assert!(major_and_minor("2.19.1") < Some(OLDEST_COMPOSE));
        assert!(major_and_minor("5.0.0") > Some(OLDEST_COMPOSE));
        assert_eq!(major_and_minor("dev"), None);
    }

    #[test]
    fn docker_without_its_compose_plugin_is_told_with_a_remedy() {
        for why in ["unknown flag: --short", "docker: 'compose' is not a docker command."] {
            let found = compose(Err(why.into()));
            assert!(found.found.contains("no compose plugin") && found.found.contains(why), "{found:?}");
            assert!(found.advice.unwrap().contains("docker-compose-plugin"));
        }
        assert!(compose(Err(NOT_FOUND.into())).advice.unwrap().contains("Docker Engine"));
        assert!(compose(Ok("2.19.1".into())).advice.unwrap().contains("upgrade"));
        assert_eq!(compose(Ok("2.26.1".into())).advice, None);
    }

    #[test]
    fn kinds_of_docker_are_told_apart() {
        for (answer, found) in [
            ("20.10.24, Debian GNU/Linux 12 (bookworm) name=seccomp,profile=default", "20.10.24"),
            ("28.2.2, Ubuntu 24.04 name=seccomp,profile=builtin name=rootless", "28.2.2, rootless"),
            ("28.2.2, Docker Desktop name=seccomp,profile=unconfined", "28.2.2, Docker Desktop"),
        ] {
            let finding = docker(Ok(answer.into()));
            assert_eq!((finding.found.as_str(), finding.ok, finding.advice), (found, Some(true), None));
        }
        assert!(docker(Err(NOT_FOUND.into())).advice.unwrap().contains("twinlink lab"));
    }

    #[test]
    fn podman_is_told_with_what_it_lacks() {
        let socket = "/run/user/1000/podman/podman.sock";
        let answer = |there: bool, ranges: &str| Ok(format!("4.3.1 true {there} {socket}{ranges}"));
        let good = podman(answer(true, " 1 65536"), true);
        assert_eq!(
            good.found,
            format!("4.3.1, rootless; for docker compose: export DOCKER_HOST=unix://{socket}")
        );
        assert_eq!((good.ok, good.advice), (Some(true), None));
        for (finding, found, advice) in [
            (podman(Err(NOT_FOUND.into()), true), "not found", "without Docker"),
            (podman(answer(true, " 1"), true), "1 users", "--add-subuids"),
            (podman(answer(true, " 1 65536"), false), "systemd session", "enable-linger"),
            (podman(answer(false, " 1 65536"), true), "without $USER's socket", "systemctl --user enable"),
            (podman(Ok(format!("5.4.0 false false unix://{socket}")), true), "as root", "systemctl enable"),
        ] {
            assert!(finding.found.contains(found), "{finding:?}");
            assert_eq!(finding.ok, Some(false), "{finding:?}");
            assert!(finding.advice.as_ref().is_some_and(|text| text.contains(advice)), "{finding:?}");
        }
    }

    #[test]
    fn selinux_is_told_by_its_file() {
        assert!(selinux(Some("1")).found.starts_with("enforcing"));
        assert_eq!(selinux(Some("0")).found, "permissive");
        assert_eq!(selinux(None).found, "not in use");
    }
}
