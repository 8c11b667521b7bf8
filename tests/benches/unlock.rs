//! `make bench`: how long initramfs-unseal takes to open the root by the TPM, beside
//! `cryptsetup open` with a key file and beside the other programs that do it by a TPM.
//! All in one boot of one emulated board (docs/performance.md). Asserts nothing about
//! the figures.

// As in tests: what fails ends the run.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "unlock/contender.rs"]
mod contender;
#[path = "unlock/figures.rs"]
mod figures;
#[path = "unlock/guest.rs"]
mod guest;

use contender::{ALL, FLOOR, OURS, ROUNDS};
use figures::Figures;
use guest::Guest;
use msec_tests::{
    built::{built, scratch},
    peers::Peers,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` builds and starts this too.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("skipped: run it with `cargo bench`");
        return;
    }
    let json = arguments.windows(2).any(|pair| pair == ["--format", "json"]);
    let peers = Peers::of(built());
    let mut guest = Guest::boot(&scratch("bench-unlock"), &peers);
    let mut figures = Figures::new(&guest, &peers);

    for contender in ALL {
        note(&format!("enrolling: {}", contender.name));
        if let Err(why) = guest.enrol(contender) {
            figures.missing(contender, why);
        }
    }
    let able: Vec<_> = ALL.iter().filter(|c| figures.has(c)).collect();
    // The first time of everything is the guest's own: the page cache is cold, and
    // QEMU has not translated the code yet.
    for round in 0..=ROUNDS {
        note(&format!("round {round} of {ROUNDS}"));
        for turn in 0..able.len() {
            let contender = able[(turn + round) % able.len()];
            if round > contender.rounds {
                continue;
            }
            let run = guest.open(contender, false);
            figures.add(contender, run, round == 0);
        }
    }
    note("counting processes");
    for contender in &able {
        let run = guest.open(contender, true);
        figures.processes(contender, &run);
    }
    note("the recovery path");
    figures.recovery(guest.recover());
    guest.power_off();
    if json {
        println!("{:#}", figures.json(FLOOR, OURS));
    } else {
        print!("{}", figures.text(FLOOR, OURS));
    }
}

/// Says on standard error what is being done: the whole takes minutes.
fn note(what: &str) {
    eprintln!("bench: {what}");
}
