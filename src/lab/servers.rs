//! The lab's two servers: twinlink's own, or any program.

use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::unistd::{Pid, setsid};

use super::network::{Host, Network, PORT};
use crate::config::server_fault::ServerFault;
use crate::http::health;
use crate::text::{check_placeholders, duration, fill_in};

/// The servers to start.
pub(crate) struct ServerRequest {
    /// The folder of both servers; the sample segments by default.
    pub data: Option<PathBuf>,
    /// The folder of server b, where it differs.
    pub data_b: Option<PathBuf>,
    /// Faults that the two have on purpose.
    pub faults: [Option<ServerFault>; 2],
    /// The program, with places for what differs; else twinlink's own server.
    pub command: Option<String>,
    /// The folder where the output is kept.
    pub logs: PathBuf,
}

/// A server that was started.
pub(crate) struct LabServer {
    pub name: &'static str,
    pub pid: Pid,
    pub has_ended: bool,
    log: File,
    /// Where its health is asked for; a program of another kind is ready when it listens.
    address: SocketAddr,
    /// The program of another kind.
    command: Option<String>,
}

/// Starts both servers, which serve `data` where b has no folder of its own.
///
/// # Errors
/// A log cannot be written, or the program cannot be started.
pub(crate) fn start(
    wanted: &ServerRequest,
    network: &Network,
    program: &Path,
    data: &Path,
    ipv6: bool,
) -> Result<Vec<LabServer>> {
    let data_b = wanted.data_b.as_deref().unwrap_or(data);
    let both = [(&network.server_a, data), (&network.server_b, data_b)];
    both.into_iter()
        .zip(wanted.faults)
        .map(|((host, data), fault)| {
            let address = if ipv6 { host.ipv6() } else { host.ipv4() };
            let filled_in = |command: &String| filled_in(command, data, &address, host.name);
            let command = wanted.command.as_ref().map(filled_in).transpose()?;
            let line = match &command {
                Some(filled) => ["sh".into(), "-c".into(), OsString::from(format!("exec {filled}"))].to_vec(),
                None => {
                    let any = if network.has_ipv6 { "[::]" } else { "0.0.0.0" };
                    let listen = format!("{any}:{PORT}");
                    let line =
                        ["server".into(), "--data".into(), data.into(), "--listen".into(), listen.into()];
                    let line = line.into_iter().chain(["--output", "json"].map(OsString::from));
                    let fault = fault.map(|fault| format!("--fault={fault}").into());
                    std::iter::once(program.into()).chain(line).chain(fault).collect()
                }
            };
            let path = wanted.logs.join(format!("{}.jsonl", host.name));
            let log = File::options().read(true).write(true).create(true).truncate(true).open(&path);
            let log = log.with_context(|| format!("cannot write {}", path.display()))?;
            let pid = spawn(host, &line, &log)?;
            let address = SocketAddr::new(address.parse()?, PORT);
            Ok(LabServer { name: host.name, pid, has_ended: false, log, address, command })
        })
        .collect()
}

fn spawn(host: &Host, line: &[OsString], log: &File) -> Result<Pid> {
    let mut command = host.command(&line[0]);
    let copy = || log.try_clone().context("cannot share a server's log");
    command.args(&line[1..]).stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
    // A terminal interrupts the command, and the servers must outlive that.
    let apart = || setsid().map(drop).map_err(std::io::Error::from);
    // SAFETY: a plain system call.
    unsafe { command.pre_exec(apart) };
    let child = command.spawn().with_context(|| format!("cannot start {}", host.name))?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// The placeholders of a server's command.
pub(crate) const PLACEHOLDERS: [&str; 4] = ["DATA", "ADDR", "PORT", "NAME"];

/// The placeholders of a server's command in a file, with the folder of that.
pub(crate) const PLACEHOLDERS_OF_FILE: [&str; 5] = ["DATA", "ADDR", "PORT", "NAME", "folder"];

/// Returns the command of a file in this folder, with that filled in.
pub(crate) fn of_file(command: &str, folder: &Path) -> String {
    command.replace("{folder}", &folder.to_string_lossy())
}

/// Reads a server's command.
///
/// # Errors
/// It has other placeholders than its own.
pub(crate) fn command(text: &str) -> Result<String, String> {
    check_placeholders(text, &PLACEHOLDERS).map(|()| text.into())
}

fn filled_in(command: &str, data: &Path, address: &str, name: &str) -> Result<String> {
    let (data, port) = (data.to_string_lossy(), PORT.to_string());
    let values: Vec<_> = PLACEHOLDERS.into_iter().zip([&*data, address, &port, name]).collect();
    fill_in(command, &values).map_err(|problem| anyhow!(problem))
}

impl LabServer {
    /// Returns true if it answers, asked from `client`.
    pub(crate) fn is_ready(&self, client: &Host) -> Result<bool> {
        client.within(|| {
            if self.is_own() {
                health::check(&self.address.to_string()).is_ok()
            } else {
                TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).is_ok()
            }
        })
    }

    pub(crate) fn is_own(&self) -> bool {
        self.command.is_none()
    }

    /// Says what has to happen before the server is ready.
    pub(crate) fn expected(&self) -> String {
        match &self.command {
            Some(command) => format!("{} (\"{command}\") to listen on {}", self.name, self.address),
            None => format!("{} to read its folder", self.name),
        }
    }

    /// Says why the server is not ready after such a time, and what it printed last.
    pub(crate) fn not_ready(&self, waited: Duration) -> anyhow::Error {
        let length = self.log.metadata().map_or(0, |metadata| metadata.len());
        let mut tail = vec![0; 4096];
        let read = self.log.read_at(&mut tail, length.saturating_sub(4096)).unwrap_or(0);
        let text = String::from_utf8_lossy(&tail[..read]).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = match &lines[lines.len().saturating_sub(5)..] {
            [] => "it printed nothing".to_string(),
            last => format!("its last lines are:\n{}", last.join("\n")),
        };
        let what = match (&self.command, self.has_ended) {
            (None, _) => format!("{} did not get ready", self.name),
            (Some(command), true) => format!("{} (\"{command}\") ended before it listened", self.name),
            (Some(command), false) => format!(
                "{} (\"{command}\") did not listen on {} for {}: have the command listen there, as by {{ADDR}} \
                 and {{PORT}}, or give it more time with --give-up of the client",
                self.name,
                self.address,
                duration(waited)
            ),
        };
        anyhow!("cannot run the lab: {what}; {last}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_server_command_are_filled_in() {
        let line =
            filled_in("x {PORT} -b {ADDR} {DATA}/{NAME} {DATA}", Path::new("/d"), "10.45.0.2", "server-a");
        assert_eq!(line.unwrap(), "x 4455 -b 10.45.0.2 /d/server-a /d");
    }
}
