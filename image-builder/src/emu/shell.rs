//! The userland's root shell on the serial console, as a machine uses it.

use serde::Deserialize;

use ima_policy::list::{DEFAULT, Record, binary::Binary};
use pcr_measure::PcrBank;

use super::boot::{Boot, BootError};
use emulated_board::Ended;

/// What a command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What it printed, standard error included; lines end with `\n`.
    pub text: String,
    /// Its exit code.
    pub code: i32,
}

/// A shell that waits for commands.
#[derive(Debug)]
pub struct Shell<'b> {
    boot: &'b mut Boot,
    count: u32,
}

impl<'b> Shell<'b> {
    /// Presses Enter, and keeps the kernel's messages off the console: they would
    /// stand in the middle of a command's output.
    pub(super) fn enter(boot: &'b mut Boot) -> Result<Self, BootError> {
        boot.board.console.send("\r")?;
        let mut shell = Self { boot, count: 0 };
        shell.run("dmesg -n 1")?;
        Ok(shell)
    }

    /// Runs a command line and waits for its end.
    ///
    /// # Errors
    /// [`BootError::Deviation`] when it does not end.
    pub fn run(&mut self, command: &str) -> Result<Output, BootError> {
        self.count += 1;
        let n = self.count;
        // The quotes keep the marks apart from their own echo.
        let line = format!("echo @BEGIN''-{n}; {command}; echo @END''-{n}=$?\r");
        self.boot.board.console.send(&line)?;
        let pattern = format!(r"@BEGIN-{n}\n((?s:.*?)@END-{n}=\d+)\n");
        let text = self.boot.expect(&format!("`{command}` to end"), &pattern)?.text;
        let mark = format!("@END-{n}=");
        let (text, code) = text.rsplit_once(&mark).unwrap_or((&text, ""));
        let code = code.parse().map_err(|_| self.boot.deviation("an exit code", code))?;
        Ok(Output { text: text.to_owned(), code })
    }

    /// Asks `initramfs-unseal status`.
    ///
    /// # Errors
    /// [`BootError::Deviation`] when it fails or its JSON is not what it should be.
    pub fn status(&mut self) -> Result<Status, BootError> {
        let command = "initramfs-unseal status --format json";
        let output = self.run(command)?;
        let what = format!("`{command}` to print its status");
        if output.code != 0 {
            let instead = format!("exit code {}: {}", output.code, output.text.trim());
            return Err(self.boot.deviation(&what, instead));
        }
        serde_json::from_str(&output.text)
            .map_err(|e| self.boot.deviation(&what, format!("{e} in {}", output.text)))
    }

    /// IMA's list of measurements in this boot.
    ///
    /// # Errors
    /// [`BootError::Deviation`] when there is none, or it cannot be read.
    pub fn measurements(&mut self) -> Result<Vec<Record>, BootError> {
        const SECURITY: &str = "/sys/kernel/security";
        let list = format!("{SECURITY}/ima/binary_runtime_measurements");
        let command = format!(
            "[ -e {list} ] || mount -t securityfs none {SECURITY}; \
             hexdump -v -e '32/1 \"%02x\" \"\\n\"' {list} 2>&1"
        );
        let output = self.run(&command)?;
        let digits: String = output.text.split_whitespace().collect();
        let records = hex::decode(digits).map_err(|error| error.to_string()).and_then(|bytes| {
            let records = Binary::new(bytes.as_slice(), DEFAULT).collect::<Result<Vec<_>, _>>();
            records.map_err(|error| error.to_string())
        });
        records.map_err(|error| self.boot.deviation("a list of measurements", error))
    }

    /// Stops the system and waits until the board is off.
    ///
    /// # Errors
    /// [`BootError::Deviation`] when it does not go off by itself.
    pub fn power_off(self) -> Result<(), BootError> {
        self.boot.board.console.send("poweroff\r")?;
        self.boot.expect_off(&Ended::PoweredOff)
    }

    /// The boot behind it.
    pub fn boot(&mut self) -> &mut Boot {
        self.boot
    }
}

/// What `initramfs-unseal status --format json` says, as far as it is used here.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The report of the initramfs.
    pub report: Report,
    /// The running root.
    pub root: Root,
    /// The PCRs now.
    pub pcrs: PcrBank,
    /// Whether the secret can be unsealed now: `unreachable`, `reachable`, or
    /// `unknown: ` and why.
    pub sealed: String,
}

/// The running root.
#[derive(Debug, Clone, Deserialize)]
pub struct Root {
    /// Its device.
    pub source: String,
    /// Its file system.
    pub fstype: String,
}

/// The unlock report.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// What unlocked the root: `tpm`, `recovery` or `provisioned`.
    pub method: String,
    /// Why the TPM did not release the key.
    pub refusal: Option<String>,
    /// Components that differ from the boot that was sealed against.
    pub differences: Vec<Difference>,
    /// TPM commands, as initramfs-unseal counted them.
    pub tpm_commands: u32,
    /// What was reached when.
    pub timeline: Vec<Reached>,
    /// The TPM objects the root is sealed to.
    pub sealed: Option<Sealed>,
}

/// TPM objects.
#[derive(Debug, Clone, Deserialize)]
pub struct Sealed {
    /// The NV index, as `0x` and hex digits.
    pub nv_index: String,
    /// PCRs of the policy.
    pub pcrs: Vec<u32>,
}

/// A component that differs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Difference {
    /// The PCR.
    pub pcr: u32,
    /// The component.
    pub component: String,
}

/// A point in time.
#[derive(Debug, Clone, Deserialize)]
pub struct Reached {
    /// What was reached.
    pub stage: String,
    /// Milliseconds since the kernel started.
    pub ms: u64,
}
