//! A program for the board that makes one system call, as an ELF file of some hundred
//! bytes: images have no compiler and no interpreter, and need none for this.

/// System calls of arm64 (Linux, include/uapi/asm-generic/unistd.h).
pub mod call {
    /// exit(2).
    pub const EXIT: u16 = 93;
    /// kexec_load(2).
    pub const KEXEC_LOAD: u16 = 104;
    /// reboot(2).
    pub const REBOOT: u16 = 142;
    /// kexec_file_load(2).
    pub const KEXEC_FILE_LOAD: u16 = 294;
}

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
/// Sizes of ELF64's file header and of one program header (ELF-64 Object File Format 1.5).
const HEADERS: u64 = 64 + 56;

/// A program that makes system call `number` with `first` and four zeros as arguments,
/// and exits with the error number, 0 for success.
#[must_use]
pub fn program(number: u16, first: u16) -> Vec<u8> {
    let mov = |register: u32, value: u16| 0xd280_0000 | u32::from(value) << 5 | register;
    const SVC: u32 = 0xd400_0001;
    const NEG_X0: u32 = 0xcb00_03e0;
    let code = [
        mov(0, first),
        mov(1, 0),
        mov(2, 0),
        mov(3, 0),
        mov(4, 0),
        mov(8, number),
        SVC,
        NEG_X0,
        mov(8, call::EXIT),
        SVC,
    ];
    let size = HEADERS + 4 * code.len() as u64;

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    half(&mut file, 2); // ET_EXEC
    half(&mut file, 183); // EM_AARCH64
    word(&mut file, 1);
    long(&mut file, BASE + HEADERS); // e_entry
    long(&mut file, 64); // e_phoff
    long(&mut file, 0);
    word(&mut file, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    word(&mut file, 1); // PT_LOAD
    word(&mut file, 5); // readable, executable
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut file, value);
    }
    for instruction in code {
        word(&mut file, instruction);
    }
    file
}

/// Shell commands that write `program` to `path` and make it executable, each short
/// enough for a terminal's line.
#[must_use]
pub fn install(program: &[u8], path: &str) -> Vec<String> {
    const PIECE: usize = 64;
    let mut commands = vec![format!(": > {path}")];
    commands.extend(program.chunks(PIECE).map(|piece| {
        let text: String = piece.iter().map(|byte| format!("\\{byte:03o}")).collect();
        format!("printf '{text}' >> {path}")
    }));
    commands.push(format!("chmod 700 {path}"));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_as_long_as_it_says_and_calls_what_it_shall() {
        let file = program(call::KEXEC_LOAD, 7);
        assert_eq!(file.len(), 160);
        assert_eq!(file[96..104], 160u64.to_le_bytes(), "p_filesz");
        assert_eq!(file[120..124], 0xd280_00e0u32.to_le_bytes(), "mov x0, #7");
        assert_eq!(file[140..144], 0xd280_0d08u32.to_le_bytes(), "mov x8, #104");
    }

    #[test]
    fn the_commands_are_short_and_carry_all_bytes() {
        let commands = install(&[0, 0x7f, b'E', 0xff], "/run/p");
        assert_eq!(
            commands,
            [": > /run/p", r"printf '\000\177\105\377' >> /run/p", "chmod 700 /run/p"]
        );
        let all = install(&program(1, 1), "/run/p");
        assert!(all.iter().all(|command| command.len() < 400));
    }
}
