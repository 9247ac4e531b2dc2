//! Fall and rise: when one target counts as up or down.

/// Counts answers and misses of one target.
///
/// ```text
///          `fall` misses in a row
///   up  ---------------------------->  down
///       <----------------------------
///          `rise` answers in a row
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Detector {
    fall: u32,
    rise: u32,
    up: bool,
    misses: u32,
    hits: u32,
    first_miss_ns: u64,
}

impl Detector {
    /// A detector that believes `up` until `fall` misses or `rise` answers in a row say otherwise; 0 counts as 1.
    #[must_use]
    pub fn new(fall: u32, rise: u32, up: bool) -> Self {
        Self { fall: fall.max(1), rise: rise.max(1), up, misses: 0, hits: 0, first_miss_ns: 0 }
    }

    /// Takes in an answer.
    pub fn hit(&mut self) {
        self.misses = 0;
        self.hits = self.hits.saturating_add(1);
        if self.hits >= self.rise {
            self.up = true;
        }
    }

    /// Takes in a miss; the answer was due at `due_ns`.
    pub fn miss(&mut self, due_ns: u64) {
        if self.misses == 0 {
            self.first_miss_ns = due_ns;
        }
        self.hits = 0;
        self.misses = self.misses.saturating_add(1);
        if self.misses >= self.fall {
            self.up = false;
        }
    }

    /// Takes in a miss that is enough by itself: whoever reports it has waited already.
    pub fn fail(&mut self, due_ns: u64) {
        self.miss(due_ns);
        self.up = false;
    }

    /// Whether the target counts as up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// Misses in a row; 0 after an answer.
    #[must_use]
    pub const fn misses(&self) -> u32 {
        self.misses
    }

    /// Answers in a row; 0 after a miss.
    #[must_use]
    pub const fn hits(&self) -> u32 {
        self.hits
    }

    /// When the first missing answer of the present misses was due; of the last ones if there are none now.
    #[must_use]
    pub const fn first_miss_ns(&self) -> u64 {
        self.first_miss_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn falls_and_rises_at_the_configured_counts() {
        let mut detector = Detector::new(2, 3, true);
        detector.miss(10);
        assert!(detector.is_up());
        detector.miss(20);
        assert!(!detector.is_up());
        assert_eq!((detector.misses(), detector.first_miss_ns()), (2, 10));
        detector.hit();
        detector.hit();
        assert!(!detector.is_up());
        detector.hit();
        assert!(detector.is_up());
    }

    #[test]
    fn a_decisive_miss_is_enough_and_recovery_is_as_ever() {
        let mut detector = Detector::new(3, 2, true);
        detector.miss(10);
        detector.fail(20);
        assert_eq!((detector.is_up(), detector.misses(), detector.first_miss_ns()), (false, 2, 10));
        detector.hit();
        assert!(!detector.is_up());
        detector.hit();
        assert!(detector.is_up());
    }

    proptest! {
        /// After any history: the state is that of the last run of equal results that was long enough.
        #[test]
        fn state_is_that_of_the_last_long_run(
            fall in 1u32..5, rise in 1u32..5, up: bool, history in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut detector = Detector::new(fall, rise, up);
            for (at, &answered) in history.iter().enumerate() {
                if answered { detector.hit() } else { detector.miss(at as u64) }
            }
            let mut expected = up;
            for run in history.chunk_by(|a, b| a == b) {
                let needed = if run[0] { rise } else { fall };
                if run.len() >= needed as usize {
                    expected = run[0];
                }
            }
            prop_assert_eq!(detector.is_up(), expected);
            let last = history.chunk_by(|a, b| a == b).last();
            let misses = last.filter(|run| !run[0]).map_or(0, <[bool]>::len);
            prop_assert_eq!(detector.misses() as usize, misses);
            if misses > 0 {
                prop_assert_eq!(detector.first_miss_ns() as usize, history.len() - misses);
            }
        }
    }
}
