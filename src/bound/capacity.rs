//! The capacity of a link over time: rates one after another, each with the delay behind it. Pure.

/// A rate from a moment on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateStep {
    /// Since its course began (s).
    pub at_s: f64,
    pub bytes_per_s: f64,
    /// The least time (s) from the bottleneck to the receiver.
    pub behind_s: f64,
}

/// Rates one after another; the last one holds, or all of them come again.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    /// Ascending, the first at 0.
    steps: Vec<RateStep>,
    /// Bytes up to the beginning of each step.
    sums: Vec<f64>,
    period_s: Option<f64>,
}

impl Course {
    /// `period_s` is when the steps come again; `None` where the last one holds.
    pub(crate) fn new(steps: Vec<RateStep>, period_s: Option<f64>) -> Course {
        let mut sums = Vec::with_capacity(steps.len());
        let (mut sum, mut last) = (0.0, RateStep { at_s: 0.0, bytes_per_s: 0.0, behind_s: 0.0 });
        for &step in &steps {
            sum += last.bytes_per_s * (step.at_s - last.at_s);
            sums.push(sum);
            last = step;
        }
        Course { steps, sums, period_s }
    }

    /// A rate that does not change.
    pub(crate) fn steady(bytes_per_s: f64, behind_s: f64) -> Course {
        Course::new(vec![RateStep { at_s: 0.0, bytes_per_s, behind_s }], None)
    }

    /// Bytes that the bottleneck passes on from the course's beginning to `t` (s).
    pub(crate) fn sum(&self, t: f64) -> f64 {
        let within = |t: f64| {
            let place = self.steps.partition_point(|step| step.at_s <= t);
            let Some(index) = place.checked_sub(1) else { return 0.0 };
            let RateStep { at_s, bytes_per_s, .. } = self.steps[index];
            // No time is infinite here, but a rate of 0 and a late end must not make NaN.
            self.sums[index] + if bytes_per_s > 0.0 { bytes_per_s * (t - at_s) } else { 0.0 }
        };
        match self.period_s {
            Some(period) if t > period => {
                let laps = (t / period).floor();
                laps * within(period) + within(t - laps * period)
            }
            _ => within(t),
        }
    }

    /// The steps that overlap a time, each with its end; those of a course that comes again, again.
    fn steps_between(&self, from: f64, to: f64) -> impl Iterator<Item = (RateStep, f64)> + '_ {
        let (lap, lap_s) = match self.period_s {
            Some(period) => ((from / period).floor().max(0.0), period),
            None => (0.0, f64::INFINITY),
        };
        let laps = std::iter::successors(Some(lap), move |lap| lap_s.is_finite().then_some(lap + 1.0));
        let start_of = move |lap: f64| if lap == 0.0 { 0.0 } else { lap * lap_s };
        laps.take_while(move |&lap| start_of(lap) < to)
            .flat_map(move |lap| {
                let ends = self.steps.iter().skip(1).map(|step| step.at_s).chain([lap_s]);
                let start = start_of(lap);
                self.steps
                    .iter()
                    .zip(ends)
                    .map(move |(step, end)| (RateStep { at_s: step.at_s + start, ..*step }, end + start))
            })
            .filter(move |(step, end)| *end > from && step.at_s < to)
    }

    /// Bytes that leave the bottleneck between two times and have arrived by a third (s).
    fn arrived(&self, from: f64, to: f64, by: f64) -> f64 {
        let (least, most) = self.delays();
        let all_until = to.min(by - most).max(from);
        let mut bytes = if all_until > from { self.sum(all_until) - self.sum(from) } else { 0.0 };
        if most > least {
            let rest = self.steps_between(all_until, to.min(by - least));
            bytes += rest
                .map(|(step, end)| {
                    let (from, to) = (step.at_s.max(all_until), end.min(to).min(by - step.behind_s));
                    if to > from { step.bytes_per_s * (to - from) } else { 0.0 }
                })
                .sum::<f64>();
        }
        bytes
    }

    /// The least and the greatest delay of its steps (s).
    fn delays(&self) -> (f64, f64) {
        let delays = self.steps.iter().map(|step| step.behind_s);
        delays.fold((f64::INFINITY, 0.0), |(least, most), delay| (delay.min(least), delay.max(most)))
    }

    /// The first time (s) from `from` on, and before `to`, at which something that leaves the
    /// bottleneck can arrive.
    fn first_arrival(&self, from: f64, to: f64) -> Option<f64> {
        let mut first: Option<f64> = None;
        for (step, _) in self.steps_between(from, to) {
            let leaves = step.at_s.max(from);
            if first.is_some_and(|first| leaves >= first) {
                break;
            }
            if step.bytes_per_s > 0.0 {
                let arrives = leaves + step.behind_s;
                first = Some(first.map_or(arrives, |first| first.min(arrives)));
            }
        }
        first
    }

    /// When (s, from `from` on) anything passes at all.
    fn opens(&self, from: f64, to: f64) -> Option<f64> {
        let open = self.steps_between(from, to).find(|(step, _)| step.bytes_per_s > 0.0);
        open.map(|(step, _)| step.at_s.max(from))
    }
}

/// A course for as long as it holds.
#[derive(Clone, Debug)]
struct CapacityPiece {
    /// From when on it holds, and when its first step began; seconds from the first request.
    from_s: f64,
    began_s: f64,
    /// Bytes that pass at once as it begins, before its rate binds.
    credit_bytes: f64,
    course: Course,
}

/// A capacity that changes: courses one after another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capacity {
    /// Ascending.
    pieces: Vec<CapacityPiece>,
}

impl Capacity {
    /// From `from_s` on (s from the first request; negative before it) another course holds, of which
    /// the first step began at `began_s`, and `credit_bytes` pass at once.
    pub(crate) fn then(mut self, from_s: f64, began_s: f64, credit_bytes: f64, course: Course) -> Capacity {
        self.pieces.push(CapacityPiece { from_s, began_s, credit_bytes, course });
        self
    }

    /// The pieces with the times at which they hold, from `from` on.
    fn held(&self, from: f64) -> impl Iterator<Item = (&CapacityPiece, f64, f64)> {
        let ends = self.pieces.iter().skip(1).map(|piece| piece.from_s).chain([f64::INFINITY]);
        let starts = self.pieces.iter().enumerate();
        let starts = starts.map(move |(index, piece)| if index == 0 { from } else { piece.from_s.max(from) });
        let times = self.pieces.iter().zip(starts).zip(ends);
        times.map(|((piece, start), end)| (piece, start, end)).filter(|(_, start, end)| start < end)
    }

    /// Bytes that leave the bottleneck from `from` on and have arrived by `by` (s).
    pub(crate) fn arrived(&self, from: f64, by: f64) -> f64 {
        self.held(from)
            .map(|(piece, start, end)| {
                let (start, end, by) = (start - piece.began_s, end - piece.began_s, by - piece.began_s);
                let paid = piece.course.arrived(start, end.min(by), by);
                let first = || piece.course.first_arrival(start, end).is_some_and(|first| by >= first);
                paid + if piece.credit_bytes > 0.0 && first() { piece.credit_bytes } else { 0.0 }
            })
            .sum()
    }

    /// The first time (s) at which something that leaves the bottleneck from `from` on can arrive.
    pub(crate) fn first_arrival(&self, from: f64) -> Option<f64> {
        let firsts = self.held(from).filter_map(|(piece, start, end)| {
            let first = piece.course.first_arrival(start - piece.began_s, end - piece.began_s)?;
            Some(first + piece.began_s)
        });
        firsts.min_by(f64::total_cmp)
    }

    /// The first time (s) from `from` on at which anything passes.
    pub(crate) fn opens(&self, from: f64) -> Option<f64> {
        let mut opens = self.held(from).filter_map(|(piece, start, end)| {
            Some(piece.course.opens(start - piece.began_s, end - piece.began_s)? + piece.began_s)
        });
        opens.next()
    }
}

/// A course that begins at the first request.
impl From<Course> for Capacity {
    fn from(course: Course) -> Capacity {
        Capacity::default().then(0.0, 0.0, 0.0, course)
    }
}
