//! Waiting for what has to happen.

use std::{
    thread,
    time::{Duration, Instant},
};

/// For something that has to happen. rsyslog tries again every five seconds at first.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long between two looks at it.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits for something that has to happen.
///
/// # Panics
/// When it does not, with what is missing.
pub fn wait(mut is_there: impl FnMut() -> bool, missing: impl Fn() -> String) {
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < DEADLINE, "{}", missing());
        thread::sleep(PAUSE);
    }
}
