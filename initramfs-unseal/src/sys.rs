//! System calls that the safe crates do not wrap, or that need care. The only
//! unsafe code of this crate is here and in [`crate::luks`].

use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Byte that freed heap memory is overwritten with.
const WIPE: libc::c_int = 0x55;

/// Makes the process keep its secrets to itself: no core dump, no tracing, no
/// swap, no environment from the command line, and every block of heap memory
/// is overwritten when it is freed, those of the C libraries included.
///
/// For a program of the initramfs, before anything else runs.
///
/// # Errors
/// The system call that failed. Callers stop then.
#[allow(unsafe_code)]
pub fn harden() -> io::Result<()> {
    // SAFETY: the process has one thread, nothing holds a pointer into the
    // environment. The kernel passes words of the command line as environment;
    // none of the libraries shall be configured by them.
    if unsafe { libc::clearenv() } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain settings of the allocator and the process, no memory is
    // handed over.
    unsafe {
        // TSS and libcryptsetup free buffers that held keys. glibc overwrites
        // what is freed when this is set (mallopt(3), M_PERTURB).
        if libc::mallopt(libc::M_PERTURB, WIPE) != 1 {
            return Err(io::Error::other("mallopt refused M_PERTURB"));
        }
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::setrlimit(libc::RLIMIT_CORE, &raw const none) != 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    lock_memory()
}

/// Makes Ctrl-Alt-Del a signal to PID 1 instead of a restart.
///
/// # Errors
/// The system call's.
pub fn disable_ctrl_alt_del() -> io::Result<()> {
    Ok(set_cad_enabled(false)?)
}

/// Keeps all memory, now and later, out of swap.
///
/// # Errors
/// The system call's.
#[allow(unsafe_code)]
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: flags only.
    let done = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel read a disk's partition table again. Nothing on the disk
/// may be mounted.
///
/// # Errors
/// The ioctl's, `EBUSY` when a partition is in use.
#[allow(unsafe_code)]
pub fn reread_partitions(disk: &File) -> io::Result<()> {
    /// `BLKRRPART`, linux/fs.h: `_IO(0x12, 95)`.
    const BLKRRPART: libc::c_ulong = 0x125f;
    // SAFETY: the request takes no argument.
    let done = unsafe { libc::ioctl(disk.as_raw_fd(), BLKRRPART as _) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A key's or a keyring's number in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySerial(pub i32);

/// Puts a certificate (X.509, DER) into a keyring, described by its subject and its key's
/// identifier.
///
/// # Errors
/// The system call's: `EKEYREJECTED` or `ENOKEY` where the keyring takes signed ones alone and
/// this one is not, `EBADMSG` where it is no certificate.
#[allow(unsafe_code)]
pub fn add_certificate(certificate: &[u8], keyring: KeySerial) -> io::Result<()> {
    // SAFETY: add_key(2) reads a text that ends with NUL, no description (the kernel takes
    // it from the certificate), and as many bytes as are said; it keeps no pointer.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"asymmetric".as_ptr(),
            c"".as_ptr(),
            certificate.as_ptr(),
            certificate.len(),
            keyring.0,
        )
    };
    if serial > 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Time since the kernel started.
#[must_use]
pub fn since_boot() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

/// Writes everything out and turns the power off. Where the board cannot power
/// off, it stops.
///
/// TPM2_Shutdown(CLEAR) is the kernel's business: `kernel_power_off` and
/// `kernel_halt` run `device_shutdown`, which calls the TPM class' `shutdown_pre`,
/// `tpm_class_shutdown` (Linux 6.12, kernel/reboot.c, drivers/base/core.c,
/// drivers/char/tpm/tpm-chip.c). It needs no file of ours to be closed, and the
/// command takes no note of open sessions (TPM 2.0 Library part 3, 9.4).
pub fn power_off() -> ! {
    end(RebootMode::RB_POWER_OFF)
}

/// Writes everything out and restarts the board. TPM2_Shutdown as with [`power_off`].
pub fn restart() -> ! {
    end(RebootMode::RB_AUTOBOOT)
}

fn end(how: RebootMode) -> ! {
    nix::unistd::sync();
    loop {
        let _ = reboot(how);
        let _ = reboot(RebootMode::RB_HALT_SYSTEM);
        std::thread::sleep(Duration::from_secs(1));
    }
}
