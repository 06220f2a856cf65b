//! One list for both links: whichever has room takes the next segment.

use std::collections::VecDeque;

use super::Part;

/// What is left, in the order of the list. What a broken connection owed goes to the front.
#[derive(Clone, Debug)]
pub struct Greedy {
    queue: VecDeque<Part>,
}

impl Greedy {
    pub fn new(segments: usize) -> Greedy {
        Greedy { queue: (0..segments).map(Part::whole).collect() }
    }

    pub fn queue(&mut self) -> &mut VecDeque<Part> {
        &mut self.queue
    }
}
