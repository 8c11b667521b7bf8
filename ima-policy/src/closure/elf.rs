//! What an ELF file needs to run: its interpreter and its libraries.

use goblin::elf::dynamic::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME};
use goblin::elf::{Elf, header};

/// What stands in an ELF file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// The machine that it is for.
    pub machine: Machine,
    /// The program that starts it (`PT_INTERP`); libraries and static programs have none.
    pub interpreter: Option<String>,
    /// Libraries by name, or by path where there is a slash in it (`DT_NEEDED`).
    pub needed: Vec<String>,
    /// Where to look for them, and for those of what it loads, unless there is a `runpath`
    /// (`DT_RPATH`).
    pub rpath: Vec<String>,
    /// Where to look for them (`DT_RUNPATH`).
    pub runpath: Vec<String>,
    /// Its own name (`DT_SONAME`).
    pub soname: Option<String>,
}

/// Class, byte order and machine: a library of another one is passed over (ld.so(8)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    class: u8,
    data: u8,
    machine: u16,
}

/// A file that begins as ELF does and is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is a damaged ELF file: {0}")]
pub struct ElfError(String);

/// Whether a file begins as ELF does.
#[must_use]
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(header::ELFMAG)
}

impl Object {
    /// Reads an ELF file; a program, a library or a kernel module.
    ///
    /// # Errors
    /// [`ElfError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        let elf = Elf::parse(bytes).map_err(|e| ElfError(e.to_string()))?;
        let ident = elf.header.e_ident;
        let machine = Machine {
            class: ident.get(header::EI_CLASS).copied().unwrap_or_default(),
            data: ident.get(header::EI_DATA).copied().unwrap_or_default(),
            machine: elf.header.e_machine,
        };
        let interpreter = elf.interpreter.map(|text| text.trim_end_matches('\0').to_owned());
        let mut object = Self { machine, interpreter, ..Self::default() };
        let Some(dynamic) = &elf.dynamic else { return Ok(object) };
        for entry in &dynamic.dyns {
            let text = || {
                let at = usize::try_from(entry.d_val).ok()?;
                elf.dynstrtab.get_at(at).map(str::to_owned)
            };
            let missing = || ElfError("a name lies outside its string table".to_owned());
            let paths = |text: String| {
                text.split(':').filter(|path| !path.is_empty()).map(str::to_owned).collect()
            };
            match entry.d_tag {
                DT_NEEDED => object.needed.push(text().ok_or_else(missing)?),
                DT_RPATH => object.rpath = paths(text().ok_or_else(missing)?),
                DT_RUNPATH => object.runpath = paths(text().ok_or_else(missing)?),
                DT_SONAME => object.soname = Some(text().ok_or_else(missing)?),
                _ => {}
            }
        }
        Ok(object)
    }
}
