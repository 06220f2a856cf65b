//! Reads, repairs and removes devices that another process made.

use anyhow::Result;

use super::NetemDirection;
use crate::shape::netem::tc::read;
use crate::shape::netem::tc::read::{Device, Qdiscs};
use crate::shape::netem::tc::render;
use crate::shape::netem::tc::render::DeviceDirection;
use crate::shape::netem::tc::run;
use crate::shape::netem::tc::run::Tool;
use crate::units::{Direction, LinkId};

/// Every lane of the lab that exists in this network namespace, whoever made it, read from the kernel.
pub(crate) fn in_force() -> Result<Vec<NetemDirection>> {
    let devices = read::devices()?;
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let qdiscs = read::qdiscs()?;
    let lanes = devices.into_iter().filter_map(|device| {
        let alias = device.alias?;
        let found: &Qdiscs = qdiscs.get(&device.name)?;
        let shape = found.shape()?;
        let ipv6 = alias.server.contains(':');
        let (dev, server) = (alias.dev.clone(), alias.server.clone());
        let place = DeviceDirection { link: device.link, direction: device.direction, dev, server, ipv6 };
        let (child, report) = (found.child(), found.report());
        Some(NetemDirection { place, alias, shape, child, why: None, report })
    });
    let mut lanes: Vec<NetemDirection> = lanes.collect();
    lanes.sort_by_key(|lane| (lane.place.link, lane.place.direction));
    Ok(lanes)
}

/// Removes what a process left that was killed: its devices, and filters at the lab's preferences that
/// lead nowhere. The caller holds the lock, so no owner of a device can be alive.
pub(crate) fn repair(devs: &[String]) -> Result<usize> {
    let dead: Vec<Device> = read::devices()?;
    remove_devices(&dead)?;
    let trials: Vec<String> = read::trials()?.iter().map(|name| render::remove_ifb(name)).collect();
    if !trials.is_empty() {
        run::batch(Tool::Ip, &trials)?;
    }
    devs.iter().try_for_each(|dev| remove_lost_filters(dev))?;
    Ok(dead.len())
}

/// Removes filters at the lab's preferences whose device is gone: they drop what they catch.
fn remove_lost_filters(dev: &str) -> Result<()> {
    if read::ingress_kind(dev)?.is_none() {
        return Ok(());
    }
    let alive: Vec<String> = read::devices()?.into_iter().map(|device| device.name).collect();
    for direction in Direction::BOTH {
        for filter in read::filters(dev, direction)? {
            let link = LinkId::BOTH.into_iter().find(|link| render::pref(*link, direction) == filter.pref);
            // tc shows a device that is gone as a star.
            let lost = filter
                .to
                .as_ref()
                .is_some_and(|to| (render::ifb_meaning(to).is_some() || to == "*") && !alive.contains(to));
            if let (Some(link), true) = (link, lost) {
                run::batch(Tool::Tc, &[render::remove_redirect(dev, link, direction)])?;
            }
        }
    }
    Ok(())
}

/// Takes devices away. Each step can be repeated from wherever an earlier try was cut off: the filters
/// go first, since one without its device drops what it catches; then the clsact, if the lab made it and
/// nobody else uses it; the devices go last, because they carry the mark of who made the clsact.
pub(super) fn remove_devices(devices: &[Device]) -> Result<()> {
    let mut clsacts: Vec<&str> = Vec::new();
    for device in devices {
        let Some(alias) = &device.alias else { continue };
        if read::interface(&alias.dev).is_err() || read::ingress_kind(&alias.dev)?.is_none() {
            continue;
        }
        let ours = read::filters(&alias.dev, device.direction)?.into_iter().any(|filter| {
            filter.pref == render::pref(device.link, device.direction)
                && filter.to.as_deref() == Some(device.name.as_str())
        });
        if ours {
            let line = render::remove_redirect(&alias.dev, device.link, device.direction);
            run::batch(Tool::Tc, &[line])?;
        }
        if alias.own_clsact && !clsacts.contains(&alias.dev.as_str()) {
            clsacts.push(&alias.dev);
        }
    }
    let stays = |device: &Device| !devices.iter().any(|gone| gone.name == device.name);
    let left: Vec<Device> = read::devices()?.into_iter().filter(stays).collect();
    for dev in clsacts {
        remove_lost_filters(dev)?;
        let used = left.iter().any(|device| device.alias.as_ref().is_some_and(|alias| alias.dev == dev));
        if !used && read::has_no_filter(dev)? {
            run::batch(Tool::Tc, &[render::remove_clsact(dev)])?;
        }
    }
    let lines: Vec<String> = devices.iter().map(|device| render::remove_ifb(&device.name)).collect();
    if !lines.is_empty() {
        run::batch(Tool::Ip, &lines)?;
    }
    Ok(())
}
