//! How many boards are on at once.

use std::sync::{Condvar, Mutex, PoisonError};

/// A board takes one core while it boots, and the smallest machine of this project
/// has two.
const BOARDS: usize = 2;

static ON: Mutex<usize> = Mutex::new(0);
static CHANGED: Condvar = Condvar::new();

/// The right to have one board on. Given back when dropped.
#[derive(Debug)]
pub struct Slot(());

/// Waits for a slot.
#[must_use]
pub fn slot() -> Slot {
    let on = ON.lock().unwrap_or_else(PoisonError::into_inner);
    let mut on = CHANGED.wait_while(on, |on| *on >= BOARDS).unwrap_or_else(PoisonError::into_inner);
    *on += 1;
    Slot(())
}

impl Drop for Slot {
    fn drop(&mut self) {
        *ON.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CHANGED.notify_one();
    }
}
