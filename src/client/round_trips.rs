//! The round trips of a link: idle, and while it was busy. Pure.

use crate::log::schema::LinkTotals;

/// A smoothed round trip and the least one, ms.
type Told = (f64, Option<f64>);

/// The round trips in the samples of a link so far.
#[derive(Debug, Default)]
pub(crate) struct ObservedRtts {
    /// The least that an end's TCP has seen.
    idle_ms: Option<f64>,
    /// The smoothed one of each sample in which something came.
    busy_ms: Vec<f64>,
}

impl ObservedRtts {
    /// Takes a sample: whether something came, and the round trips that each end tells, smoothed and least, in ms.
    /// The server's end sees each packet's, the client's those of its requests.
    pub(crate) fn note(&mut self, is_busy: bool, client: Option<Told>, server: Option<Told>) {
        let least = [client, server].into_iter().flatten().filter_map(|told| told.1);
        self.idle_ms = self.idle_ms.into_iter().chain(least).min_by(f64::total_cmp);
        let smoothed = server.or(client).map(|told| told.0);
        self.busy_ms.extend(smoothed.filter(|&ms| is_busy && ms > 0.0));
    }

    /// Returns a link's totals with its round trips.
    pub(crate) fn add_to(&self, totals: LinkTotals) -> LinkTotals {
        let mut sorted = self.busy_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied();
        LinkTotals { idle_rtt_ms: self.idle_ms, busy_rtt_ms: at(0.5), busy_rtt_p95_ms: at(0.95), ..totals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_samples_count_and_the_server_is_believed_first() {
        let mut found = ObservedRtts::default();
        found.note(true, Some((30.0, Some(30.0))), None);
        found.note(false, None, Some((900.0, Some(21.0))));
        (1..=99).for_each(|ms| found.note(true, Some((1000.0, None)), Some((100.0 + f64::from(ms), None))));
        let totals = found.add_to(LinkTotals { files: 7, ..LinkTotals::default() });
        assert_eq!((totals.files, totals.idle_rtt_ms), (7, Some(21.0)));
        assert_eq!((totals.busy_rtt_ms, totals.busy_rtt_p95_ms), (Some(150.0), Some(195.0)));
        assert_eq!(ObservedRtts::default().add_to(LinkTotals::default()).busy_rtt_ms, None);
    }
}
