//! Puts the expected and the measured events of one PCR side by side.

use super::{Entry, MeasuredEvent};
use crate::manifest::ReferenceEvent;
use crate::pcr::PcrIndex;

/// Pairs of events compared at most; beyond it events are paired in order. A
/// forged log must not make the comparison slow.
const MAX_CELLS: usize = 1 << 20;

/// The alignment that needs the fewest differences (edit distance over digests:
/// differs, missing and extra count one each). Among equals it prefers
/// "differs", and then the earliest place.
pub(super) fn align(
    pcr: PcrIndex,
    expected: &[&ReferenceEvent],
    measured: &[&MeasuredEvent],
) -> Vec<Entry> {
    debug_assert!(expected.iter().all(|e| e.pcr == pcr) && measured.iter().all(|m| m.pcr == pcr));
    let same = |e: &&ReferenceEvent, m: &&MeasuredEvent| e.digest == m.digest;
    let head = expected.iter().zip(measured).take_while(|(e, m)| same(e, m)).count();
    let (head_expected, expected) = expected.split_at(head);
    let (head_measured, measured) = measured.split_at(head);
    let tail = expected.iter().rev().zip(measured.iter().rev());
    let tail = tail.take_while(|(e, m)| same(e, m)).count();
    let (expected, tail_expected) = expected.split_at(expected.len() - tail);
    let (measured, tail_measured) = measured.split_at(measured.len() - tail);

    let pairs = |e: &[&ReferenceEvent], m: &[&MeasuredEvent]| -> Vec<Entry> {
        e.iter().zip(m).map(|(e, m)| Entry::pair(e, m)).collect()
    };
    let mut entries = pairs(head_expected, head_measured);
    entries.extend(middle(expected, measured));
    entries.extend(pairs(tail_expected, tail_measured));
    entries
}

fn middle(expected: &[&ReferenceEvent], measured: &[&MeasuredEvent]) -> Vec<Entry> {
    let width = measured.len() + 1;
    if expected.len().saturating_add(1).saturating_mul(width) > MAX_CELLS {
        return in_order(expected, measured);
    }
    // cost(e, m): differences that the events from e and from m on need.
    let mut costs = vec![0usize; (expected.len() + 1) * width];
    let at = |costs: &[usize], e: usize, m: usize| costs.get(e * width + m).copied().unwrap_or(0);
    for e in (0..=expected.len()).rev() {
        for m in (0..width).rev() {
            let cost = match (expected.get(e), measured.get(m)) {
                (None, None) => 0,
                (Some(_), None) => 1 + at(&costs, e + 1, m),
                (None, Some(_)) => 1 + at(&costs, e, m + 1),
                (Some(x), Some(y)) => {
                    let pair = usize::from(x.digest != y.digest) + at(&costs, e + 1, m + 1);
                    pair.min(1 + at(&costs, e + 1, m)).min(1 + at(&costs, e, m + 1))
                }
            };
            if let Some(cell) = costs.get_mut(e * width + m) {
                *cell = cost;
            }
        }
    }
    let (mut e, mut m) = (0, 0);
    let mut entries = Vec::new();
    loop {
        let cost = at(&costs, e, m);
        match (expected.get(e), measured.get(m)) {
            (None, None) => return entries,
            (Some(x), Some(y))
                if cost == usize::from(x.digest != y.digest) + at(&costs, e + 1, m + 1) =>
            {
                entries.push(Entry::pair(x, y));
                (e, m) = (e + 1, m + 1);
            }
            (Some(x), other) if other.is_none() || cost == 1 + at(&costs, e + 1, m) => {
                entries.push(Entry::missing(x));
                e += 1;
            }
            (_, Some(y)) => {
                entries.push(Entry::extra(y));
                m += 1;
            }
            // The arm before the last took every case without a measured event.
            (Some(_), None) => return entries,
        }
    }
}

fn in_order(expected: &[&ReferenceEvent], measured: &[&MeasuredEvent]) -> Vec<Entry> {
    let paired = expected.iter().zip(measured).map(|(e, m)| Entry::pair(e, m));
    let missing = expected.iter().skip(measured.len()).map(|e| Entry::missing(e));
    let extra = measured.iter().skip(expected.len()).map(|m| Entry::extra(m));
    paired.chain(missing).chain(extra).collect()
}
