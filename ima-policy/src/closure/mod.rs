//! What a set of programs needs to run: the list of files to watch.

mod elf;
mod loader;
mod modules;
mod script;
mod walk;

pub use elf::{ElfError, Machine, Object, is_elf};
pub use script::Shebang;
pub use walk::{Closure, ClosureError, Kind, Member, Missing, closure, modules, modules_to_load};
