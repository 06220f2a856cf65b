//! The lab's first process: builds the network, starts the servers, runs the command, ends the servers.
//! Every process of the lab is its child or becomes one, and none outlives it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, isatty, setsid};

use super::network::{self, Network};
use super::samples;
use super::servers;
use super::servers::LabServer;
use super::signals::LabSignals;
use super::{CONTROL_FOLDER, CONTROL_SOCKET, Plan, namespaces};
use crate::shape::netem::tc::run;
use crate::text::tell;

/// A large folder takes its time to be read.
pub(crate) const UNTIL_READY: Duration = Duration::from_secs(120);
/// After this long it is said which server is waited for.
const UNTIL_SAID: Duration = Duration::from_secs(1);
/// A server may finish what is in flight.
const UNTIL_ENDED: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(20);
/// Signals closer to each other than this count as one: some senders signal a process and its group.
const ONE_SIGNAL: Duration = Duration::from_millis(250);

/// The whole of it; returns the command's exit code.
pub(crate) fn run(plan: &Plan, signals: &LabSignals) -> Result<u8> {
    namespaces::mount_own_folders(&plan.control)?;
    let network = network::build(plan.ipv6)?;
    namespaces::mount_hosts(&network::hosts_file(&network, plan.ipv6))?;
    let (data, mut servers) = match &plan.servers {
        Some(wanted) => {
            let data = wanted.data.clone().map_or_else(|| samples::folder(&plan.scratch), Ok)?;
            let servers = servers::start(wanted, &network, &plan.program, &data, plan.ipv6)?;
            (Some(data), servers)
        }
        None => (None, Vec::new()),
    };
    let code = match await_servers(&mut servers, &network, plan.give_up, signals)? {
        Some(signal) => 128 + signal as u8,
        None => run_command(plan, &network, data.as_deref(), &mut servers, signals)?,
    };
    end(&mut servers, signals)?;
    Ok(code)
}

/// Waits until all servers answer. Returns the signal that ended the waiting.
fn await_servers(
    servers: &mut [LabServer],
    network: &Network,
    give_up: Duration,
    signals: &LabSignals,
) -> Result<Option<Signal>> {
    let (began, mut said) = (Instant::now(), false);
    for index in 0..servers.len() {
        while !servers[index].is_ready(&network.client)? {
            match signals.wait(Some(LOOK))?.map(|received| received.signal) {
                Some(Signal::SIGCHLD) => drop(reap(servers)?),
                Some(signal) => return Ok(Some(signal)),
                None => {}
            }
            let (server, waited) = (&servers[index], began.elapsed());
            let limit = if server.is_own() { UNTIL_READY } else { give_up };
            if server.has_ended || waited > limit {
                return Err(server.not_ready(limit));
            }
            if waited > UNTIL_SAID && !std::mem::replace(&mut said, true) {
                tell(&format!("waiting for {}", server.expected()));
            }
        }
    }
    Ok(None)
}

fn run_command(
    plan: &Plan,
    network: &Network,
    data: Option<&Path>,
    servers: &mut [LabServer],
    signals: &LabSignals,
) -> Result<u8> {
    let mut command = network.client.command(&plan.command[0]);
    command.args(&plan.command[1..]);
    set_environment(&mut command, plan, network);
    command.envs(data.map(|data| ("TWINLINK_DATA", data)));
    // At a terminal the command stays among the foreground processes, which the terminal itself interrupts.
    let at_terminal = isatty(std::io::stdin()).unwrap_or(false);
    if !at_terminal {
        let apart = || setsid().map(drop).map_err(std::io::Error::from);
        // SAFETY: a plain system call.
        unsafe { command.pre_exec(apart) };
    }
    let child =
        command.spawn().with_context(|| format!("cannot run {}", plan.command[0].to_string_lossy()))?;
    let child = Pid::from_raw(child.id() as i32);
    let mut first: Option<Instant> = None;
    loop {
        let Some(received) = signals.wait(None)? else { continue };
        if received.signal == Signal::SIGCHLD {
            if let Some((_, status)) = reap(servers)?.into_iter().find(|(pid, _)| *pid == child) {
                if let (WaitStatus::Signaled(_, signal, _), None) = (status, first) {
                    let name = plan.command[0].to_string_lossy();
                    tell(&format!("error: {name} was ended by {signal}, which this lab did not send"));
                }
                return Ok(exit_code(status));
            }
            continue;
        }
        if received.from_terminal && at_terminal {
            continue;
        }
        // The first lets the command end in its own way; a later one insists.
        let signal = match first {
            None => received.signal,
            Some(first) if first.elapsed() < ONE_SIGNAL => continue,
            Some(_) => Signal::SIGKILL,
        };
        first.get_or_insert_with(Instant::now);
        // As a terminal does, an interrupt reaches the command's own children too, where the command has a group.
        let whom = if signal == Signal::SIGINT && !at_terminal { -child.as_raw() } else { child.as_raw() };
        let _ = kill(Pid::from_raw(whom), signal);
    }
}

fn set_environment(command: &mut Command, plan: &Plan, network: &Network) {
    let own = plan.program.parent().map_or(String::new(), |dir| format!(":{}", dir.display()));
    command
        .env("PATH", run::path() + &own)
        .env("TMPDIR", &plan.scratch)
        .env("TWINLINK_BIN", &plan.program)
        .env("TWINLINK_SERVER_LOGS", &plan.server_logs)
        .env("TWINLINK_CONTROL", format!("{CONTROL_FOLDER}/{CONTROL_SOCKET}"))
        .env("TWINLINK_NS_CLIENT", network.client.name)
        .env("TWINLINK_NS_A", network.server_a.name)
        .env("TWINLINK_NS_B", network.server_b.name);
}

/// Collects the children that have ended, with how they did.
fn reap(servers: &mut [LabServer]) -> Result<Vec<(Pid, WaitStatus)>> {
    let mut ended = Vec::new();
    loop {
        let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) => (pid, status),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("cannot wait for the lab's processes"),
        };
        if let Some(server) = servers.iter_mut().find(|server| server.pid == pid) {
            server.has_ended = true;
        }
        ended.push((pid, status));
    }
}

/// The exit code of a process that has ended: 128 and the signal's number where a signal ended it.
fn exit_code(status: WaitStatus) -> u8 {
    match status {
        WaitStatus::Signaled(_, signal, _) => 128 + signal as u8,
        WaitStatus::Exited(_, code) => code as u8,
        _ => 0,
    }
}

/// Ends the servers: asks, then insists.
fn end(servers: &mut [LabServer], signals: &LabSignals) -> Result<()> {
    let began = Instant::now();
    reap(servers)?;
    for server in servers.iter().filter(|server| !server.has_ended) {
        let _ = kill(server.pid, Signal::SIGTERM);
    }
    // The kernel kills what is left when this process ends.
    while servers.iter().any(|server| !server.has_ended) && began.elapsed() < UNTIL_ENDED {
        signals.wait(Some(LOOK))?;
        reap(servers)?;
    }
    Ok(())
}
