//! What a set of programs needs to run: the list of files to watch.

mod elf;
mod script;

pub use elf::{ElfError, Machine, Object, is_elf};
pub use script::Shebang;
