//! The places that connections take, and the choice of the one that makes room.
//!
//! If all places are taken, the connection closes that has waited longest for a request, among those of the
//! address with the most: idle connections never keep a client out. One address takes at most three quarters
//! of the places, so that busy connections leave room for others. Downloaders that open 16 connections for
//! each of several files stay far below that.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use super::access_log::ConnectionLog;

pub(crate) struct Places {
    limit: usize,
    per_address: usize,
    taken: Mutex<HashMap<u64, Arc<ConnectionLog>>>,
}

/// A place in use; free again when this is dropped.
pub(crate) struct ConnectionPlace {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Places> {
        Arc::new(Places { limit, per_address: limit - limit / 4, taken: Mutex::default() })
    }

    /// Takes a place for a connection, if need be that of an idle one, which is told to close.
    /// Returns nothing where every connection that could make room is busy.
    pub(crate) fn take(self: &Arc<Places>, connection: Arc<ConnectionLog>) -> Option<ConnectionPlace> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let address = connection.peer.ip().to_canonical();
        let of_address = taken.values().filter(|other| other.peer.ip().to_canonical() == address).count();
        if of_address >= self.per_address {
            close_idle(&mut taken, Some(address))?;
        } else if taken.len() >= self.limit {
            close_idle(&mut taken, None)?;
        }
        let number = connection.number;
        taken.insert(number, connection);
        Some(ConnectionPlace { places: self.clone(), number })
    }

    /// Tells one idle connection to close, for its descriptors.
    pub(crate) fn make_room(&self) {
        close_idle(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner), None);
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.places.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// Frees the place of an idle connection, of one address if that is given; nothing where none is idle.
fn close_idle(taken: &mut HashMap<u64, Arc<ConnectionLog>>, address: Option<IpAddr>) -> Option<()> {
    let of = |connection: &ConnectionLog| connection.peer.ip().to_canonical();
    let mut held: HashMap<IpAddr, usize> = HashMap::new();
    for connection in taken.values() {
        *held.entry(of(connection)).or_default() += 1;
    }
    let idle = taken.values().filter(|connection| !connection.busy.load(Relaxed));
    let candidates = idle.filter(|connection| address.is_none_or(|address| of(connection) == address));
    let longest_idle = candidates.max_by_key(|connection| {
        (held[&of(connection)], Reverse(connection.idle_since()), Reverse(connection.number))
    })?;
    let number = longest_idle.number;
    taken.remove(&number)?.close.notify_one();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::schema::{Log, Stdout};
    use crate::server::access_log::AccessLog;
    use std::net::SocketAddr;

    fn connect(
        places: &Arc<Places>,
        number: u64,
        address: &str,
    ) -> (Arc<ConnectionLog>, Option<ConnectionPlace>) {
        let log = Arc::new(Log::new("test".into(), None, Stdout::Nothing).unwrap());
        let peer = SocketAddr::new(address.parse().unwrap(), 1000 + number as u16);
        let connection = Arc::new(ConnectionLog::new(peer, number, AccessLog::start(log)));
        let place = places.take(connection.clone());
        (connection, place)
    }

    fn numbers(places: &Places) -> Vec<u64> {
        let mut numbers: Vec<u64> = places.taken.lock().unwrap().keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn longest_idle_connection_of_the_fullest_address_closes() {
        let places = Places::new(4);
        let mut kept: Vec<_> = [(1, "10.0.0.2"), (2, "10.0.0.1"), (3, "10.0.0.1"), (4, "10.0.0.1")]
            .map(|(number, address)| connect(&places, number, address))
            .into();
        // The address that holds most loses its oldest; the single connection of the other stays.
        kept.push(connect(&places, 5, "10.0.0.3"));
        assert_eq!(numbers(&places), [1, 3, 4, 5]);
        // A busy one stays.
        kept[2].0.busy.store(true, Relaxed);
        kept.push(connect(&places, 6, "10.0.0.3"));
        assert_eq!(numbers(&places), [1, 3, 5, 6]);
        // The place of a connection that was told to close is not given back twice.
        kept.remove(1);
        assert_eq!(numbers(&places), [1, 3, 5, 6]);
        kept.pop();
        assert_eq!(numbers(&places), [1, 3, 5]);
    }

    #[test]
    fn busy_connections_of_one_address_leave_places_for_others() {
        let places = Places::new(8);
        let mut kept = Vec::new();
        for number in 0..6 {
            kept.push(connect(&places, number, "10.0.0.1"));
            kept.last().unwrap().0.busy.store(true, Relaxed);
        }
        assert!(connect(&places, 6, "10.0.0.1").1.is_none());
        assert!(connect(&places, 7, "::ffff:10.0.0.1").1.is_none());
        for number in 8..10 {
            kept.push(connect(&places, number, "10.0.0.2"));
            assert!(kept.last().unwrap().1.is_some());
            kept.last().unwrap().0.busy.store(true, Relaxed);
        }
        assert!(connect(&places, 10, "10.0.0.3").1.is_none());
    }
}
