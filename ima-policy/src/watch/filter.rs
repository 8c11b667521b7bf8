//! What of the reports is sent: each once, and not more than somebody can read. What is left
//! out is counted and told.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use super::report::{Event, Report, Severity};

/// Most reports of one severity in one [`WINDOW`]. Each severity has its own, so that a flood
/// of one does not hide another.
const MOST: u32 = 1000;

/// For how long they are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Most reports that are remembered, in each of two generations.
const MAX: usize = 8192;

/// Leaves out what was told already, and what is too much.
#[derive(Debug, Default)]
pub struct Filter {
    hasher: RandomState,
    young: HashSet<u64>,
    old: HashSet<u64>,
    since: Duration,
    counts: [u32; Severity::NUMBERS],
    repeated: u64,
    too_many: u64,
}

impl Filter {
    /// Whether a report is to be sent. `now` is by a clock that does not go back.
    #[must_use]
    pub fn takes(&mut self, report: &Report, now: Duration) -> bool {
        // By a hash whose key is this process' own: nobody makes two reports pass for one.
        let hash = self.hasher.hash_one(report.identity());
        if self.young.contains(&hash) || self.old.contains(&hash) {
            self.repeated += 1;
            return false;
        }
        if now.saturating_sub(self.since) >= WINDOW && self.left_out() == 0 {
            self.begin(now);
        }
        if let Some(count) = self.counts.get_mut(report.severity as usize) {
            if *count >= MOST {
                self.too_many += 1;
                return false;
            }
            *count += 1;
        }
        if self.young.len() >= MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash);
        true
    }

    /// What was left out, once a window is over, or at the end.
    #[must_use]
    pub fn told(&mut self, now: Duration, is_end: bool) -> Option<Report> {
        if self.left_out() == 0 || (!is_end && now.saturating_sub(self.since) < WINDOW) {
            return None;
        }
        let severity = if self.too_many > 0 { Severity::Warning } else { Severity::Notice };
        let report = Report::new(Event::LeftOut, severity).counted(self.repeated, self.too_many);
        self.begin(now);
        Some(report)
    }

    const fn left_out(&self) -> u64 {
        self.repeated + self.too_many
    }

    const fn begin(&mut self, now: Duration) {
        self.since = now;
        self.counts = [0; Severity::NUMBERS];
        (self.repeated, self.too_many) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(severity: Severity, name: &str) -> Report {
        Report::new(Event::Unknown, severity).named(name.as_bytes())
    }

    #[test]
    fn what_was_told_is_counted_and_not_told_again() {
        let mut filter = Filter::default();
        let now = Duration::from_secs(5);
        assert!(filter.takes(&report(Severity::Warning, "/a"), now));
        assert!(filter.takes(&report(Severity::Warning, "/b"), now));
        for _ in 0..3 {
            assert!(!filter.takes(&report(Severity::Warning, "/a"), now));
        }
        assert_eq!(filter.told(now, false), None);
        let told = filter.told(now + WINDOW, false).unwrap();
        assert_eq!((told.event, told.severity), (Event::LeftOut, Severity::Notice));
        assert_eq!((told.repeated, told.too_many), (Some(3), Some(0)));
        assert_eq!(filter.told(now + WINDOW * 3, true), None);
    }

    #[test]
    fn a_flood_of_one_severity_hides_no_other_and_is_told() {
        let mut filter = Filter::default();
        let now = Duration::from_secs(5);
        let flood = |filter: &mut Filter, from: u32, now| {
            let taken = (from..from + MOST + 7).filter(|number| {
                filter.takes(&report(Severity::Warning, &number.to_string()), now)
            });
            taken.count()
        };
        assert_eq!(flood(&mut filter, 0, now), MOST as usize);
        assert!(filter.takes(&report(Severity::Alert, "/m.ko"), now));
        let told = filter.told(now, true).unwrap();
        assert_eq!((told.severity, told.too_many), (Severity::Warning, Some(7)));
        // The next window takes as many again.
        assert_eq!(flood(&mut filter, 10_000, now + WINDOW), MOST as usize);
    }

    #[test]
    fn memory_has_a_bound() {
        let mut filter = Filter::default();
        for number in 0..40 * u64::from(MOST) {
            let now = Duration::from_secs(number);
            assert!(filter.takes(&report(Severity::Warning, &number.to_string()), now));
        }
        assert!(filter.young.len() + filter.old.len() <= 2 * MAX);
    }
}
