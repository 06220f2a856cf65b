//! The course's order: `a` files from server a, the next `b` from server b, and so on.

use std::collections::VecDeque;

use super::Part;
use crate::units::LinkId;

/// Each server's own list. A list is worked off in order and never shared.
#[derive(Clone, Debug)]
pub struct Ratio {
    queues: [VecDeque<Part>; 2],
}

impl Ratio {
    /// Deals `segments` files out in turns of `a` and `b`; one of the two is above 0.
    pub fn new(a: u32, b: u32, segments: usize) -> Ratio {
        let turn = a as usize + b as usize;
        let mut queues: [VecDeque<Part>; 2] = Default::default();
        for segment in 0..segments {
            let link = if segment % turn < a as usize { LinkId::A } else { LinkId::B };
            queues[link.index()].push_back(Part::whole(segment));
        }
        Ratio { queues }
    }

    pub fn queue(&mut self, link: LinkId) -> &mut VecDeque<Part> {
        &mut self.queues[link.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ratio: &mut Ratio, link: LinkId) -> Vec<usize> {
        ratio.queue(link).iter().map(|part| part.segment + 1).collect()
    }

    #[test]
    fn one_to_two_is_the_course_s_example() {
        let mut ratio = Ratio::new(1, 2, 8);
        assert_eq!(names(&mut ratio, LinkId::A), [1, 4, 7]);
        assert_eq!(names(&mut ratio, LinkId::B), [2, 3, 5, 6, 8]);
    }

    #[test]
    fn a_ratio_with_a_zero_leaves_all_to_the_other() {
        let mut ratio = Ratio::new(0, 1, 160);
        assert!(names(&mut ratio, LinkId::A).is_empty());
        assert_eq!(names(&mut ratio, LinkId::B).len(), 160);
    }
}
