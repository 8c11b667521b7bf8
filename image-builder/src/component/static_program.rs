//! Our programs for the target: static files that need nothing beside them.

pub(super) mod linked;

use goblin::elf::Elf;
use goblin::elf::header::EM_AARCH64;
use goblin::elf::program_header::PT_INTERP;

use super::static_lib::{TARGET, pkg_config_path};
use super::{BuildError, Component, job::Job};

/// Rust's name of the target.
const RUST_TARGET: &str = "aarch64-unknown-linux-gnu";

/// The profile of the workspace that puts size first.
const PROFILE: &str = "initramfs";

/// The largest pages of a kernel that starts it, in bytes: ours has 4 KiB, and so have Debian's
/// but for some with 16. The linker would fill segments up to 64 KiB.
const PAGE: usize = 16 << 10;

/// C libraries, by their pkg-config files.
#[derive(Debug, Clone, Copy)]
pub(super) enum Libraries {
    /// All that a component delivers.
    Of(Component),
    /// One of Debian's.
    Named(&'static str),
}

/// A package of the workspace whose programs are linked statically.
#[derive(Debug)]
pub(super) struct Program {
    /// Cargo's name of it.
    pub(super) package: &'static str,
    /// Its features.
    pub(super) features: &'static [&'static str],
    /// The programs.
    pub(super) files: &'static [&'static str],
    /// The crates of the workspace that are in them.
    pub(super) crates: &'static [&'static str],
    /// The components that it is linked with.
    pub(super) needs: &'static [Component],
    /// The C libraries that are in it, and with them those that they refer to.
    pub(super) libraries: &'static [Libraries],
    /// What build scripts have to know, beside where pkg-config looks.
    pub(super) environment: &'static [(&'static str, &'static str)],
    /// Bytes that each program may take.
    pub(super) size_limit: usize,
}

/// Builds the programs, and delivers them with the list of what was linked.
pub(super) fn build(job: &Job<'_>, program: &Program) -> Result<(), BuildError> {
    let Program { package, needs, size_limit, .. } = *program;
    let output = job.context.cache.root().join("target").join(package);
    let cargo_home = std::env::var("CARGO_HOME").unwrap_or_default();
    let flags = format!(
        "-C target-feature=+crt-static -C relocation-model=static -C link-arg=-Wl,--gc-sections \
         -C link-arg=-Wl,-z,max-page-size={PAGE} --remap-path-prefix={}=msec-boot --remap-path-prefix={cargo_home}=cargo",
        job.context.tree.display(),
    );
    // Cargo tells changed sources by their date. Another checkout that was built here
    // later, at the same path of the build root, would pass for this one.
    let mut clean = job.command("cargo", &job.context.tree);
    Job::with_network(&mut clean)
        .args(["clean", "--locked"])
        .args(program.crates.iter().map(|name| format!("--package={name}")))
        .args([&format!("--profile={PROFILE}"), &format!("--target={RUST_TARGET}")])
        .env("CARGO_TARGET_DIR", &output);
    job.run("cargo clean", &mut clean)?;
    let mut cargo = job.command("cargo", &job.context.tree);
    Job::with_network(&mut cargo)
        .args(["build", "--locked", "--bins", &format!("--package={package}")])
        .arg(format!("--features={}", program.features.join(",")))
        .args([&format!("--profile={PROFILE}"), &format!("--target={RUST_TARGET}"), &job.jobs()])
        .env("CARGO_TARGET_DIR", &output)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", format!("{TARGET}-gcc"))
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags)
        .env("CC_aarch64_unknown_linux_gnu", format!("{TARGET}-gcc"))
        .env("AR_aarch64_unknown_linux_gnu", format!("{TARGET}-ar"))
        .env("PKG_CONFIG_ALLOW_CROSS", "1")
        .env("PKG_CONFIG_ALL_STATIC", "1")
        .env("PKG_CONFIG_LIBDIR_aarch64_unknown_linux_gnu", pkg_config_path(job, needs))
        .env(
            "BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu",
            format!("--target={TARGET} -I/usr/{TARGET}/include -I/usr/include/{TARGET}"),
        )
        .envs(program.environment.iter().copied());
    job.run("cargo build", &mut cargo)?;
    for name in program.files {
        let path = output.join(RUST_TARGET).join(PROFILE).join(name);
        let checked = check(&job.read(&path)?, size_limit);
        checked.map_err(|reason| job.wrong(format!("{}: {reason}", path.display())))?;
        job.keep(&path, name)?;
    }
    linked::keep(job, program)
}

/// Is this a program that runs with nothing beside it?
fn check(bytes: &[u8], size_limit: usize) -> Result<(), String> {
    let elf = Elf::parse(bytes).map_err(|error| format!("no ELF file: {error}"))?;
    if elf.header.e_machine != EM_AARCH64 {
        return Err("built for another machine than aarch64".into());
    }
    if elf.program_headers.iter().any(|header| header.p_type == PT_INTERP) {
        return Err("not static: it asks for a dynamic linker".into());
    }
    if !elf.libraries.is_empty() {
        return Err(format!("not static: it needs {}", elf.libraries.join(", ")));
    }
    if bytes.len() > size_limit {
        return Err(format!("{} bytes, and at most {size_limit} may be", bytes.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE_LIMIT: usize = 3 << 20;

    /// A 64-bit little-endian ELF file with one program header of this type.
    fn elf(machine: u16, header: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        bytes[16..18].copy_from_slice(&2u16.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[20..24].copy_from_slice(&1u32.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[52..54].copy_from_slice(&64u16.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&header.to_le_bytes());
        bytes
    }

    #[test]
    fn only_a_static_program_for_the_target_passes() {
        let check = |bytes: &[u8]| check(bytes, SIZE_LIMIT);
        check(&elf(EM_AARCH64, 1)).unwrap();
        let large = [elf(EM_AARCH64, 1), vec![0; SIZE_LIMIT]].concat();
        let cases = [
            (elf(62, 1), "another machine"),
            (elf(EM_AARCH64, PT_INTERP), "dynamic linker"),
            (large, "at most 3145728"),
            (Vec::new(), "no ELF file"),
            (b"#!/bin/sh\n".to_vec(), "no ELF file"),
        ];
        for (bytes, expected) in cases {
            let error = check(&bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        check(&this).unwrap_err();
    }
}
