//! U-Boot's driver for SPI0, from the shell of the development variant: every clock and
//! mode, wait states, and its cost beside the same pads driven bit by bit.
//!
//! QEMU's bus has no clock and no modes: what clock and mode a setting really is, the
//! controller's registers tell. That the bytes are right, a TPM tells, through its
//! registers and by commands whose answers are known.

use std::{path::Path, time::Duration};

use emulated_board::{Board, ChipSelect, Clock, SoftTpm, SpiBehaviour, SpiTpm, TpmLink};
use image_builder::emu::card::Card;
use msec_tests::{
    built::{built, scratch},
    slots,
};
use sha2::{Digest as _, Sha256};

/// How long the shell may take for one command, loops included.
const PATIENCE: Duration = Duration::from_secs(900);

/// Registers of SPI0 ("BCM2835 ARM Peripherals", 10.5) where a BCM2837 has them.
const SPI_CS: u32 = 0x3f20_4000;
const SPI_CLK: u32 = 0x3f20_4008;
/// CPHA and CPOL in CS: bits 2 and 3.
const CS_MODE_SHIFT: u32 = 2;

/// The system timer's lower half (chapter 12), in microseconds.
const TIMER: u32 = 0x3f00_3004;

/// The rate of the core clock that QEMU's VideoCore answers with
/// (`RPI_FIRMWARE_CORE_CLK_RATE`).
const CORE_HZ: u32 = 350_000_000;

/// A header that reads TPM_DID_VID_0 (PTP 6.5.2.9), and what QEMU's TPM has there.
const DID_VID: &str = "83d40f00";
const DID_VID_VALUE: [u8; 4] = [0x14, 0x10, 0x01, 0x00];

/// What a transaction of `sspi` can have: its buffer.
const SSPI_BYTES: usize = 32;

/// Who drives the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Master {
    /// The SPI controller, by the driver under test.
    Controller,
    /// U-Boot's `soft_spi`, bit by bit.
    Bits,
}

/// A board at U-Boot's prompt.
#[derive(Debug)]
struct Lab {
    board: Board,
    /// `bus:cs` for `sspi`.
    slave: &'static str,
    count: u32,
    _slot: slots::Slot,
}

impl Lab {
    /// Powers a board on, stops its boot, and has its TPM on the bus of this master.
    fn start(card: &Card, dir: &Path, master: Master, clock: Clock) -> Self {
        let slot = slots::slot();
        let spi = SpiTpm {
            tpm: SoftTpm::create(&dir.join("tpm"), "sha256").unwrap(),
            qemu: built().emulator(),
            chip_select: ChipSelect::Ce1,
            behaviour: SpiBehaviour::default(),
        };
        let mut config = card.board(TpmLink::Spi(spi), &dir.join("logs"), None).unwrap();
        config.clock = clock;
        let mut board = Board::power_on(config).unwrap();
        board.console.wait("Hit any key to stop autoboot", PATIENCE).unwrap();
        board.console.send(" ").unwrap();
        board.console.wait("U-Boot> $", PATIENCE).unwrap();
        let slave = match master {
            Master::Controller => "0:1",
            Master::Bits => "0:0",
        };
        let mut lab = Self { board, slave, count: 0, _slot: slot };
        // The mark at a command's end is not in the echo of what was typed.
        lab.board.console.send("setenv mark @END\r").unwrap();
        lab.board.console.wait("U-Boot> $", PATIENCE).unwrap();
        if master == Master::Bits {
            lab.ok("unbind /soc/spi@7e204000");
            lab.ok("bind /spi-gpio soft_spi");
        }
        lab
    }

    /// What a command line prints, and its return code.
    fn run(&mut self, command: &str) -> (String, u32) {
        self.count += 1;
        let line = format!("{command}; echo ${{mark}}-{}=$?\r", self.count);
        self.board.console.send(&line).unwrap();
        let pattern = format!(r"=\$\?\n((?s:.*?)@END-{}=\d+)\n", self.count);
        let text = self.board.console.wait(&pattern, PATIENCE).unwrap().text;
        let (text, code) = text.rsplit_once("@END-").unwrap();
        (text.to_owned(), code.split_once('=').unwrap().1.parse().unwrap())
    }

    /// The same for a command that must succeed.
    fn ok(&mut self, command: &str) -> String {
        let (text, code) = self.run(command);
        assert_eq!(code, 0, "{command}: {text}");
        text
    }

    /// The same for one that must not.
    fn refused(&mut self, command: &str) -> String {
        let (text, code) = self.run(command);
        assert_ne!(code, 0, "{command}: {text}");
        text
    }

    /// A word of memory, such as a register.
    fn word(&mut self, address: u32) -> u32 {
        let text = self.ok(&format!("md.l {address:x} 1"));
        let word = text.split_whitespace().nth(1).unwrap();
        u32::from_str_radix(word, 16).unwrap()
    }

    /// A variable that holds a number in hexadecimal digits.
    fn variable(&mut self, name: &str) -> u64 {
        u64::from_str_radix(self.ok(&format!("echo ${{{name}}}")).trim(), 16).unwrap()
    }

    /// Runs a command line without its output, and returns how long it took in the
    /// guest's time.
    fn timed(&mut self, command: &str) -> Duration {
        self.ok(&format!(
            "setenv stdout nulldev; setexpr.l t0 *{TIMER:x}; {command}; setexpr.l t1 *{TIMER:x}; \
             setenv stdout serial"
        ));
        let (begin, end) = (self.variable("t0"), self.variable("t1"));
        Duration::from_micros(end.checked_sub(begin).expect("the timer runs for an hour"))
    }

    /// Reads TPM_DID_VID in one transaction of 32 bytes, at this clock (in Hz) and in
    /// this mode; both stay as they are for what comes next.
    fn read_did_vid(&mut self, hz: u32, mode: u32, wait_states: u32) {
        let bits = SSPI_BYTES * 8;
        let text = self.ok(&format!("sspi {}.{mode}@{hz} {bits} {DID_VID}", self.slave));
        // Before it may stand what the TPM's driver says when it starts.
        let bytes: Vec<u8> = text
            .lines()
            .last()
            .unwrap()
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(bytes.len(), SSPI_BYTES, "{text}");
        // From the header's last byte on: wait states, one that ends them, the register.
        let rest = &bytes[3..];
        let waited = rest.iter().position(|byte| byte & 1 == 1).unwrap();
        assert_eq!(waited, usize::try_from(wait_states).unwrap(), "{text}");
        assert_eq!(rest[waited + 1..waited + 5], DID_VID_VALUE, "{text}");
    }

    /// Starts the TPM and gives each of its PCRs 0 to 15 a value of its own; lays down
    /// in memory what they are then, by our own reckoning, and the TPM's properties; and
    /// defines `step`: a random read of either, compared with that.
    fn prepare(&mut self) {
        self.ok("tpm2 autostart");
        for pcr in 0..16_u32 {
            let digest = Sha256::digest(pcr.to_le_bytes());
            let value = Sha256::digest([&[0; 32], digest.as_slice()].concat());
            self.lay(DIGEST, &digest);
            self.ok(&format!("tpm2 pcr_extend {pcr} {DIGEST:#x}"));
            self.lay(PCRS + 32 * pcr, &value);
        }
        // The first of TPM_PT_FIXED: no command changes them.
        self.ok(&format!("tpm2 get_capability 6 0x100 {PROPERTIES:#x} 28"));
        // A linear congruential generator; its upper half chooses.
        for (name, script) in [
            ("random", "setexpr r $r * 41c64e6d; setexpr r $r + 3039; setexpr r $r % 80000000"),
            ("choose", "run random; setexpr p $r / 10000; setexpr kind $p % 2; setexpr p $p / 2"),
            (
                "pcr",
                &format!(
                    "setexpr p $p % 10; setexpr at $p * 20; setexpr at $at + {PCRS:x}; \
                     tpm2 pcr_read 0x$p {BUFFER:#x} && cmp.b {BUFFER:x} $at 20"
                ),
            ),
            (
                "properties",
                &format!(
                    "setexpr p $p % 1c; setexpr p $p + 1; setexpr size $p * 8; \
                     tpm2 get_capability 6 0x100 {BUFFER:#x} 0x$p && cmp.b {:x} {:x} $size",
                    BUFFER + 4,
                    PROPERTIES + 4
                ),
            ),
            (
                "step",
                &format!(
                    "mw.b {BUFFER:x} 0 100; run choose; setenv good 0; \
                     if test $kind = 0; then run pcr && setenv good 1; \
                     else run properties && setenv good 1; fi; \
                     if test $good = 0; then setexpr bad $bad + 1; fi"
                ),
            ),
            ("steps", "while test 0x$n -gt 0; do run step; setexpr n $n - 1; done"),
        ] {
            self.ok(&format!("setenv {name} '{script}'"));
        }
    }

    /// Writes bytes into memory, a multiple of four.
    fn lay(&mut self, address: u32, bytes: &[u8]) {
        let words = (address..).step_by(4).zip(bytes.chunks(4)).map(|(at, word)| {
            format!("mw.l {at:x} {:x}", u32::from_le_bytes(word.try_into().unwrap()))
        });
        self.ok(&words.collect::<Vec<_>>().join("; "));
    }

    /// So many random reads; how many of them went wrong, and how long all took.
    fn reads(&mut self, count: u32, seed: u32) -> (u64, Duration) {
        self.ok(&format!("setenv bad 0; setenv r {seed:x}; setenv n {count:x}"));
        let time = self.timed("run steps");
        assert_eq!(self.variable("n"), 0, "all reads were made");
        (self.variable("bad"), time)
    }

    /// The guest's time for a byte, without what a command costs beside its bytes: what 28
    /// bytes more in each of `count` transactions take. That `sspi` writes each as two
    /// digits is part of it, for both masters.
    fn time_per_byte(&mut self, count: u32) -> Duration {
        // The TPM's driver starts with the first one, and sleeps.
        self.ok(&format!("sspi {} 64 {DID_VID}", self.slave));
        let [short, long] = [SSPI_BYTES - 28, SSPI_BYTES].map(|bytes| {
            let bits = bytes * 8;
            let command = format!("sspi {} {bits} {DID_VID}", self.slave);
            self.ok(&format!(
                "setenv n {count:x}; setenv transactions 'while test 0x$n -gt 0; do {command}; \
                 setexpr n $n - 1; done'"
            ));
            self.timed("run transactions")
        });
        long.checked_sub(short).expect("more bytes take longer") / (28 * count)
    }
}

/// Where in memory the shell has its data: above the FIT's place, below U-Boot's.
const DIGEST: u32 = 0x2800_0000;
const BUFFER: u32 = 0x2800_1000;
const PCRS: u32 = 0x2800_2000;
const PROPERTIES: u32 = 0x2800_3000;

/// An image with its TPM on SPI0 and a U-Boot for the lab.
fn image(dir: &Path) -> Card {
    built().small_image_with(dir, |recipe| {
        let tpm = recipe["tpm"].as_table_mut().unwrap();
        tpm.insert("bus".to_owned(), "spi".into());
        tpm.insert("device".to_owned(), "slb9670".into());
        let development = toml::Table::from_iter([("development".to_owned(), true.into())]);
        recipe.insert("u_boot".to_owned(), development.into());
    })
}

/// What CDIV must be for a clock ("BCM2835 ARM Peripherals", 10.5, CLK): SCLK is the
/// core clock over CDIV, an even number, and never faster than asked for.
fn divisor(hz: u32) -> u32 {
    CORE_HZ.div_ceil(hz).next_multiple_of(2).max(2)
}

/// Clocks in Hz: the slowest whole one, usual ones, those where rounding changes the
/// divisor, and more than the controller has.
const CLOCKS: [u32; 10] = [
    5_341,
    125_000,
    1_000_000,
    9_722_222,
    9_722_223,
    10_000_000,
    15_600_000,
    32_000_000,
    175_000_000,
    u32::MAX,
];

/// Takes the driver through its settings with so many random reads at each, and prints
/// what was seen.
fn every_clock_and_mode(name: &str, reads: u32) {
    let dir = scratch(name);
    let mut lab = Lab::start(&image(&dir), &dir, Master::Controller, Clock::Host);
    lab.prepare();
    let settings = CLOCKS.iter().map(|hz| (*hz, 0)).chain((1..4).map(|mode| (10_000_000, mode)));
    let mut all = Duration::ZERO;
    for (seed, (hz, mode)) in (1..).zip(settings) {
        for wait_states in [0, 1, 20] {
            let behaviour = SpiBehaviour { wait_states, ..SpiBehaviour::default() };
            lab.board.set_spi_behaviour(&behaviour).unwrap();
            lab.read_did_vid(hz, mode, wait_states);
            lab.ok("tpm2 self_test full");
            let (bad, time) = lab.reads(reads, 3 * seed + wait_states);
            let at = format!("{hz} Hz, mode {mode}, {wait_states} wait states");
            assert_eq!(bad, 0, "wrong reads of {reads} at {at}");
            // The TPM's driver has left both as they were.
            assert_eq!(lab.word(SPI_CLK), divisor(hz), "CDIV at {at}");
            assert_eq!((lab.word(SPI_CS) >> CS_MODE_SHIFT) & 3, mode, "CPOL, CPHA at {at}");
            println!("{at}: CDIV {}, {reads} reads in {time:.1?}", divisor(hz));
            all += time;
        }
    }
    println!("all reads: {all:.1?}");
}

#[test]
fn u_boots_spi_driver_reads_right_at_every_clock_and_mode() {
    every_clock_and_mode("spi-driver", 8);
}

#[test]
#[ignore = "takes minutes; make test-long"]
fn u_boots_spi_driver_reads_right_a_thousand_times_at_every_clock_and_mode() {
    every_clock_and_mode("spi-driver-long", 1000);
}

/// The premise of the test above: what is not as it should be is counted.
#[test]
fn a_wrong_byte_is_a_wrong_read() {
    let dir = scratch("spi-driver-wrong");
    let mut lab = Lab::start(&image(&dir), &dir, Master::Controller, Clock::Host);
    lab.prepare();
    assert_eq!(lab.reads(20, 1).0, 0);
    for pcr in 0..16 {
        lab.ok(&format!("mw.b {:x} 0", PCRS + 32 * pcr + 31));
    }
    lab.ok(&format!("mw.b {:x} ff", PROPERTIES + 4));
    assert_eq!(lab.reads(20, 1).0, 20);
}

/// Slower than the divisor goes, and modes that the controller has not (LSB first, three
/// wires): an error, and nothing is sent.
#[test]
fn u_boots_spi_driver_refuses_what_the_controller_has_not() {
    let dir = scratch("spi-driver-limits");
    let mut lab = Lab::start(&image(&dir), &dir, Master::Controller, Clock::Host);
    lab.read_did_vid(1_000_000, 0, 0);
    for setting in ["0@5340", "0@1", "8@1000000", "16@1000000"] {
        let text = lab.refused(&format!("sspi {}.{setting} 64 {DID_VID}", lab.slave));
        assert!(text.contains("Cannot set"), "{setting}: {text}");
        assert_eq!(lab.word(SPI_CLK), divisor(1_000_000), "{setting}");
    }
    lab.read_did_vid(2_000_000, 0, 0);
}

/// What the driver is for. Counted in the guest's own instructions, which is what a CPU
/// has to do for a byte: no emulated bus has a clock, so this is no time on a real one.
#[test]
fn a_byte_by_the_controller_costs_a_fraction_of_one_by_bits() {
    let dir = scratch("spi-driver-cost");
    let card = image(&dir);
    for clock in [Clock::Instructions, Clock::Host] {
        let [controller, bits] = [Master::Controller, Master::Bits].map(|master| {
            let dir = dir.join(format!("{master:?}-{clock:?}"));
            let mut lab = Lab::start(&card, &dir, master, clock);
            let byte = lab.time_per_byte(100);
            lab.prepare();
            let test = lab.timed("tpm2 self_test full");
            let (bad, reads) = lab.reads(100, 1);
            assert_eq!(bad, 0, "{master:?}");
            [byte, test, reads]
        });
        for (what, controller, bits) in [
            ("a byte", controller[0], bits[0]),
            ("a self-test", controller[1], bits[1]),
            ("100 random reads", controller[2], bits[2]),
        ] {
            let ratio = bits.as_secs_f64() / controller.as_secs_f64();
            println!("{clock:?}: {what}: {controller:?}, by bits {bits:?}: {ratio:.1} times");
            if (clock, what) == (Clock::Instructions, "a byte") {
                assert!(ratio > 5.0, "{ratio} times");
            }
        }
    }
}
