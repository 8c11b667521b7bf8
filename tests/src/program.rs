//! Programs for the board that make one system call each, as ELF files of some hundred
//! bytes: images have no compiler and no interpreter, and need none for this.

/// System calls of arm64 (Linux, include/uapi/asm-generic/unistd.h).
pub mod call {
    /// exit(2).
    pub const EXIT: u16 = 93;
    /// kexec_load(2).
    pub const KEXEC_LOAD: u16 = 104;
    /// reboot(2).
    pub const REBOOT: u16 = 142;
    /// add_key(2).
    pub const ADD_KEY: u16 = 217;
    /// kexec_file_load(2).
    pub const KEXEC_FILE_LOAD: u16 = 294;
}

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
/// Sizes of ELF64's file header and of one program header (ELF-64 Object File Format 1.5).
const HEADERS: u64 = 64 + 56;

/// The system call of which the number is in x8, then an exit with its error number.
const CALL_AND_EXIT: [u32; 4] = [
    0xd400_0001, // svc #0
    0xcb00_03e0, // neg x0, x0
    mov(8, call::EXIT),
    0xd400_0001,
];

/// `mov x<register>, #<value>`.
const fn mov(register: u32, value: u16) -> u32 {
    0xd280_0000 | (value as u32) << 5 | register
}

/// A program that makes system call `number` with `first` and four zeros as arguments,
/// and exits with the error number, 0 for success.
#[must_use]
pub fn program(number: u16, first: u16) -> Vec<u8> {
    let load = [mov(0, first), mov(1, 0), mov(2, 0), mov(3, 0), mov(4, 0), mov(8, number)];
    elf(&[&load[..], &CALL_AND_EXIT].concat(), &[])
}

/// A program that asks for a key of this type, without a description and with nothing in
/// it, and exits with the error number: `ENODEV` when the kernel has no such type.
#[must_use]
pub fn key_of_type(name: &str) -> Vec<u8> {
    const INSTRUCTIONS: u32 = 10;
    let load = [
        0x1000_0000 | INSTRUCTIONS << 5, // adr x0, the name behind the code
        mov(1, 0),
        mov(2, 0),
        mov(3, 0),
        0x9280_0004, // mov x4, #-1: KEY_SPEC_THREAD_KEYRING (keyctl.h)
        mov(8, call::ADD_KEY),
    ];
    elf(&[&load[..], &CALL_AND_EXIT].concat(), &[name.as_bytes(), b"\0"].concat())
}

/// An executable of this code, with these data behind it.
fn elf(code: &[u32], data: &[u8]) -> Vec<u8> {
    let size = HEADERS + 4 * code.len() as u64 + data.len() as u64;

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
        word(&mut file, *instruction);
    }
    file.extend(data);
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
    fn the_name_of_a_key_type_stands_where_the_code_looks() {
        let file = key_of_type("user");
        assert_eq!(file[160..], *b"user\0");
        let adr = u32::from_le_bytes(file[120..124].try_into().unwrap());
        // Reference manual of the architecture: ADR, immhi in bits 5 to 23, in words.
        assert_eq!((adr & 0x9f00_001f, (adr >> 5 & 0x7_ffff) * 4), (0x1000_0000, 160 - 120));
        assert_eq!(file[96..104], 165u64.to_le_bytes(), "p_filesz");
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
