//! The board with a firmware of 33 words, so that power, consoles and TPM socket
//! are tested without a build of the real chain.

use super::*;

/// Prints `hello`, echoes what is typed, powers off at `q`, resets at `r`. The
/// other three processors wait.
///
/// ```text
///        mrs  x0, mpidr_el1 ; ands x0, x0, #3 ; b.ne park
///        mov  x1, #0x3f201000            // PL011
///        mov  w3, #0x301 ; str w3, [x1, #0x30]      // CR: enable
///        adr  x2, msg
/// 1:     ldrb w3, [x2], #1 ; cbz w3, 2f ; str w3, [x1] ; b 1b
/// 2:     ldr  w3, [x1, #0x18] ; tbnz w3, #4, 2b     // FR: nothing received
///        ldr  w3, [x1] ; and w3, w3, #0xff ; str w3, [x1]
///        mov  w4, #0x555 ; cmp w3, #'q' ; b.eq 3f   // RSTS: halt
///        mov  w4, #0     ; cmp w3, #'r' ; b.ne 2b   // RSTS: restart
/// 3:     mov  x5, #0x3f100000            // power management
///        movk w4, #0x5a00, lsl #16 ; str w4, [x5, #0x20]   // RSTS
///        mov  w4, #0x5a000020      ; str w4, [x5, #0x1c]   // RSTC: full reset
/// park:  wfe ; b park
/// msg:   .asciz "hello\r\n"
/// ```
const FIRMWARE: [u32; 33] = [
    0xd538_00a0,
    0xf240_0400,
    0x5400_0361,
    0xd2a7_e401,
    0xf282_0001,
    0x5280_6023,
    0xb900_3023,
    0x1000_0302,
    0x3840_1443,
    0x3400_0063,
    0xb900_0023,
    0x17ff_fffd,
    0xb940_1823,
    0x3727_ffe3,
    0xb940_0023,
    0x1200_1c63,
    0xb900_0023,
    0x5280_aaa4,
    0x7101_c47f,
    0x5400_0080,
    0x5280_0004,
    0x7101_c87f,
    0x54ff_fec1,
    0xd2a7_e205,
    0x72ab_4004,
    0xb900_20a4,
    0x5280_0404,
    0x72ab_4004,
    0xb900_1ca4,
    0xd503_205f,
    0x17ff_ffff,
    0x6c6c_6568,
    0x000a_0d6f,
];

/// Bytes of the code; the message follows it.
const CODE: usize = 31 * 4;

const SOON: Duration = Duration::from_secs(60);

fn config(dir: &Path) -> BoardConfig {
    config_with(dir, b"hello\r\n\0")
}

/// A board whose firmware prints `message` (NUL-terminated) instead.
fn config_with(dir: &Path, message: &[u8]) -> BoardConfig {
    let mut firmware: Vec<u8> = FIRMWARE.iter().flat_map(|word| word.to_le_bytes()).collect();
    firmware.truncate(CODE);
    firmware.extend_from_slice(message);
    std::fs::write(dir.join("firmware"), firmware).unwrap();
    std::fs::write(dir.join("dtb"), [0; 64]).unwrap();
    BoardConfig {
        machine: Machine::Rpi3 {
            firmware: Firmware::Armstub(dir.join("firmware")),
            board_dtb: dir.join("dtb"),
        },
        disk: Disk::None,
        tpm: TpmLink::None,
        clock: Clock::Host,
        network: Network::None,
        emulator: None,
        logs: dir.join("logs"),
        tap: None,
        secret: Default::default(),
    }
}

/// More than a socket's buffer holds, in the board's first instant.
#[test]
fn a_board_that_prints_a_lot_at_once_is_heard() {
    if !process::has_tools() {
        return;
    }
    for _ in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let mut message = vec![b'x'; 16 << 10];
        message.extend_from_slice(b"hello\r\n\0");
        let mut board = Board::power_on(config_with(dir.path(), &message)).unwrap();
        let found = board.console.wait("(x+)hello", SOON).unwrap();
        assert_eq!(found.text.len(), 16 << 10);
        board.cut_power();
    }
}

fn hello(dir: &Path) -> Board {
    let mut board = Board::power_on(config(dir)).unwrap();
    board.console.wait("hello", SOON).unwrap();
    board
}

#[test]
fn the_board_prints_echoes_and_powers_off() {
    if !process::has_tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut board = hello(dir.path());
    board.console.send("abc").unwrap();
    board.console.wait("abc", SOON).unwrap();
    board.console.send("q").unwrap();
    assert_eq!(board.wait_off(SOON).unwrap(), Ended::PoweredOff);
}

#[test]
fn a_reset_is_told_from_a_power_off() {
    if !process::has_tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut board = hello(dir.path());
    board.console.send("r").unwrap();
    assert_eq!(board.wait_off(SOON).unwrap(), Ended::Reset);
}

#[test]
fn a_power_cut_ends_qemu_and_its_tpm() {
    if !process::has_tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tpm = SoftTpm::create(&dir.path().join("tpm"), "sha256").unwrap();
    let config = BoardConfig { tpm: TpmLink::I2c(tpm.clone()), ..config(dir.path()) };
    let mut board = Board::power_on(config).unwrap();
    board.console.wait("hello", SOON).unwrap();
    assert!(matches!(board.wait_off(Duration::from_millis(50)), Err(BoardError::StillOn { .. })));
    let qemu = board.id();
    board.cut_power();
    assert!(!Path::new(&format!("/proc/{qemu}")).exists(), "QEMU has gone");
    // The TPM has gone too: its state can be taken again.
    tpm.start(&dir.path().join("log")).unwrap();
}

#[test]
fn an_unplugged_console_leaves_the_board_on() {
    if !process::has_tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut board = hello(dir.path());
    board.console.unplug().unwrap();
    assert!(matches!(board.wait_off(Duration::from_millis(200)), Err(BoardError::StillOn { .. })));
}

#[test]
fn a_card_of_a_wrong_size_is_refused_before_qemu_starts() {
    if !process::has_tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let card = dir.path().join("card");
    std::fs::write(&card, vec![0; 3 << 20]).unwrap();
    let config = BoardConfig { disk: Disk::Card(card), ..config(dir.path()) };
    let text = Board::power_on(config).unwrap_err().to_string();
    assert!(text.contains("3145728 bytes") && text.contains("power of two"), "{text}");
}

#[test]
fn a_card_in_use_is_refused_and_free_after_power_off() {
    if !process::has_tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let card = dir.path().join("card");
    std::fs::write(&card, vec![0; 4 << 20]).unwrap();
    let with = |logs: &str| BoardConfig {
        disk: Disk::Card(card.clone()),
        logs: dir.path().join(logs),
        ..config(dir.path())
    };
    let board = Board::power_on(with("first")).unwrap();
    let error = Board::power_on(with("second")).unwrap_err();
    assert!(matches!(error, BoardError::CardInUse { .. }), "{error}");
    drop(board);
    Board::power_on(with("third")).unwrap();
}

#[test]
fn what_qemu_refuses_is_told_in_its_own_words() {
    if !process::has_tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A firmware that does not fit in memory.
    let firmware = dir.path().join("huge");
    std::fs::File::create(&firmware).unwrap().set_len(8 << 30).unwrap();
    let firmware = Firmware::Armstub(firmware);
    let machine = Machine::Rpi3 { firmware, board_dtb: dir.path().join("dtb") };
    let config = BoardConfig { machine, ..config(dir.path()) };
    let text = Board::power_on(config).unwrap_err().to_string();
    assert!(text.contains("QEMU did not start the board: ") && text.contains("load"), "{text}");
}
