//! The model of one network namespace: links of their own, and links that share the channel. Pure: the caller
//! gives the time, which must not run backwards.

use super::channel::SharedChannel;
use super::link::{ArrivingPacket, Cause, Departure, LinkModel, Tally};
use crate::config::channel::ChannelConfig;
use crate::config::profile::Profile;
use crate::units::Nanos;
use crate::units::{Direction, LinkId};

/// One direction of a link.
pub(crate) type Way = (LinkId, Direction);

/// The four ways, in the order of [`index_of`].
pub(crate) const WAYS: [Way; 4] = [
    (LinkId::A, Direction::Down),
    (LinkId::A, Direction::Up),
    (LinkId::B, Direction::Down),
    (LinkId::B, Direction::Up),
];

/// A way's place in per-way arrays.
pub(crate) fn index_of((link, direction): Way) -> usize {
    link.index() * 2 + direction as usize
}

/// The modelled links.
#[derive(Clone, Debug)]
pub(crate) struct Emulator {
    own: [Option<LinkModel>; 4],
    channel: Option<SharedChannel>,
    seed: u64,
}

impl Emulator {
    pub(crate) fn new(channel: Option<&ChannelConfig>, seed: u64) -> Emulator {
        Emulator {
            own: [const { None }; 4],
            channel: channel.map(|config| SharedChannel::new(config, seed)),
            seed,
        }
    }

    fn on_channel(&mut self, link: LinkId) -> Option<&mut SharedChannel> {
        self.channel.as_mut().filter(|channel| channel.carries(link))
    }

    /// Returns true if the shared channel carries this link.
    pub(crate) fn is_on_channel(&self, link: LinkId) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.carries(link))
    }

    /// Sets a link up, or changes it in place. A link on the channel keeps to its channel file.
    pub(crate) fn set(&mut self, now: Nanos, link: LinkId, profile: &Profile) {
        if self.on_channel(link).is_some() {
            return;
        }
        for direction in Direction::BOTH {
            let shape = profile.shape(direction);
            match &mut self.own[index_of((link, direction))] {
                Some(model) => model.change(now, shape),
                empty => *empty = Some(LinkModel::new(shape, self.seed, link, direction)),
            }
        }
    }

    /// Plays a link's traces from now on; the profile is the one that it was set up with.
    pub(crate) fn play(&mut self, now: Nanos, link: LinkId, profile: &Profile) {
        for direction in Direction::BOTH {
            if let Some(model) = &mut self.own[index_of((link, direction))] {
                model.play(now, profile.shape(direction));
            }
        }
    }

    /// Takes a packet in. A way that is not modelled lets it depart at once.
    ///
    /// # Errors
    /// The cause, where the packet is dropped.
    pub(crate) fn arrive(&mut self, now: Nanos, way: Way, packet: ArrivingPacket) -> Result<Arrived, Cause> {
        if let Some(channel) = self.on_channel(way.0) {
            return channel.arrive(now, way, packet).map(|()| Arrived::Held);
        }
        match &mut self.own[index_of(way)] {
            Some(model) => model.take_in(now, packet).map(|_| Arrived::Held),
            None => Ok(Arrived::NotModelled),
        }
    }

    /// Whether a way's packets leave in the order in which they came, from now on.
    pub(crate) fn keeps_order(&self, way: Way) -> bool {
        let channel = self.channel.as_ref().filter(|channel| channel.carries(way.0));
        if let Some(channel) = channel {
            return channel.keeps_order(way.0, way.1);
        }
        self.own[index_of(way)].as_ref().is_none_or(LinkModel::keeps_order)
    }

    /// When something happens next that makes a packet depart or moves it on.
    pub(crate) fn next_event(&self) -> Option<Nanos> {
        let own = self.own.iter().flatten().filter_map(LinkModel::next_event).min();
        let channel = self.channel.as_ref().and_then(SharedChannel::next_event);
        own.into_iter().chain(channel).min()
    }

    /// Plays everything up to now; [`Emulator::take_due`] then gives what departs.
    pub(crate) fn advance(&mut self, now: Nanos) {
        self.own.iter_mut().flatten().for_each(|model| model.advance(now));
        if let Some(channel) = &mut self.channel {
            channel.advance(now);
        }
    }

    pub(crate) fn take_due(&mut self, now: Nanos, way: Way) -> Option<Departure> {
        match self.on_channel(way.0) {
            Some(channel) => channel.take_due(now, way.0, way.1),
            None => self.own[index_of(way)].as_mut()?.take_due(now),
        }
    }

    /// Hands out the packets that were lost after they were taken in.
    pub(crate) fn take_lost(&mut self) -> impl Iterator<Item = (LinkId, Direction, u32)> + '_ {
        let own = WAYS.into_iter().zip(&mut self.own).flat_map(|((link, direction), model)| {
            let lost = model.iter_mut().flat_map(LinkModel::take_lost);
            lost.map(move |id| (link, direction, id))
        });
        own.chain(self.channel.iter_mut().flat_map(SharedChannel::take_lost))
    }

    /// Takes a link's model away, and forgets what it held. A link on the channel stays there.
    pub(crate) fn remove(&mut self, link: LinkId) {
        for direction in Direction::BOTH {
            self.own[index_of((link, direction))] = None;
        }
    }

    pub(crate) fn tally(&mut self, now: Nanos, way: Way) -> Option<Tally> {
        match self.on_channel(way.0) {
            Some(channel) => Some(channel.tally(now, way.0, way.1)),
            None => Some(self.own[index_of(way)].as_mut()?.tally(now)),
        }
    }

    /// How long each station and the access point have been on the channel since the start.
    pub(crate) fn busy(&self) -> Vec<(&'static str, Nanos)> {
        self.channel.iter().flat_map(SharedChannel::busy).collect()
    }
}

/// The result for a packet that was not dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    Held,
    NotModelled,
}
