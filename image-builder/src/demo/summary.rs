//! The summary of a journey, for people.

use std::fmt::{self, Display, Formatter};

use pcr_measure::Sha256Digest;

use super::record::{BootRecord, Journey, PcrRow};
use super::watched::{Report, Told, Watching};

/// How many hex digits of a PCR are shown; all of them are in the JSON form.
const SHOWN: usize = 16;

impl Display for Journey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(image) = &self.image {
            writeln!(f, "image      {}", image.path.display())?;
            if let Some(unseal) = image.unseal {
                writeln!(f, "           initramfs-unseal {:>9} bytes", unseal)?;
            }
            writeln!(f, "           initramfs        {:>9} bytes", image.initramfs)?;
            writeln!(f, "           FIT              {:>9} bytes", image.fit)?;
        }
        for boot in &self.boots {
            writeln!(f, "\n{boot}")?;
        }
        if let Some(watched) = &self.watched {
            writeln!(f, "\n{watched}")?;
        }
        Ok(())
    }
}

impl Display for BootRecord {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "boot {}: {}", self.name, self.title)?;
        self.stages(f)?;
        self.pcrs(f)?;
        writeln!(f, "  root        {}, unlocked by: {}", self.root, self.unlocked_by)?;
        if let Some(refusal) = &self.refusal {
            writeln!(f, "  refusal     {refusal}")?;
        }
        for difference in &self.differences {
            writeln!(f, "  differs     {difference}")?;
        }
        let tpm = &self.tpm;
        writeln!(
            f,
            "  TPM         {} commands from initramfs-unseal's start to the open root: {}",
            tpm.unlock.len(),
            tpm.unlock.join(" ")
        )?;
        writeln!(
            f,
            "              {} commands in the whole boot, U-Boot and Linux included",
            tpm.boot
        )?;
        writeln!(f, "  secret      {} in the running system", self.secret.status)?;
        if let Some(tools) = &self.secret.tpm2_tools {
            writeln!(f, "              tpm2-tools: {tools}")?;
        }
        let led = if self.ran.leads_to_pcr { "which lead" } else { "which DO NOT LEAD" };
        let known = if self.ran.told.is_empty() { ", all of them foretold" } else { "" };
        writeln!(f, "  IMA         {} entries, {led} to PCR 10{known}", self.ran.entries)?;
        for told in &self.ran.told {
            writeln!(f, "              {told}")?;
        }
        write!(f, "  logs        {}", self.logs.display())
    }
}

impl Display for Watching {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.boot)?;
        writeln!(f, "  refused     {}", self.refusal)?;
        let after = self.told_after.as_secs_f64();
        writeln!(f, "              told in its log {after:.2} s after it was started, at most")?;
        write!(f, "  told        {:<13} {:<8} where", "what", "how bad")?;
        for Told { report: Report { event, severity, name }, here, elsewhere } in &self.told {
            let place = match (here, elsewhere) {
                (true, true) => "here and at the collector",
                (true, false) => "HERE ALONE",
                _ => "AT THE COLLECTOR ALONE",
            };
            write!(f, "\n              {event:<13} {severity:<8} {place}: {name}")?;
        }
        Ok(())
    }
}

impl BootRecord {
    fn stages(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<18} {:>8} {:>8}", "stage", "at", "took")?;
        for stage in &self.stages {
            let (at, took) = (stage.at.as_secs_f64(), stage.took.as_secs_f64());
            writeln!(f, "  {:<18} {at:>7.2}s {took:>7.2}s", stage.name)?;
        }
        Ok(())
    }

    fn pcrs(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  PCR  {:<SHOWN$}…  {:<SHOWN$}…", "predicted", "measured")?;
        for row in &self.pcrs {
            writeln!(
                f,
                "  {:>3}  {:<SHOWN$}…  {:<SHOWN$}…  {}",
                row.pcr,
                short(row.predicted),
                short(row.measured),
                verdict(row)
            )?;
        }
        Ok(())
    }
}

fn short(value: Option<Sha256Digest>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |v| v.to_string().chars().take(SHOWN).collect())
}

fn verdict(row: &PcrRow) -> String {
    let agrees = if row.agrees() { "as predicted" } else { "NOT AS PREDICTED" };
    match row.as_sealed {
        None => agrees.to_owned(),
        Some(true) => format!("{agrees}, as sealed"),
        Some(false) => format!("{agrees}, differs from what was sealed"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use emulated_board::{stages::Stage, wire::Capture};

    use super::super::record::{Ran, Secret, Sizes, TpmCommands};
    use super::*;

    #[test]
    fn a_refused_boot_reads_like_this() {
        let (a, b) = (Sha256Digest::of(b"a"), Sha256Digest::of(b"b"));
        let row =
            |pcr, predicted, measured, as_sealed| PcrRow { pcr, predicted, measured, as_sealed };
        let boot = BootRecord {
            name: "3a".into(),
            title: "changed command line".into(),
            stages: vec![
                Stage { name: "power-on", at: Duration::ZERO, took: Duration::from_millis(1500) },
                Stage { name: "Linux", at: Duration::from_millis(1500), took: Duration::ZERO },
            ],
            pcrs: vec![
                row(0, Some(a), Some(a), Some(true)),
                row(1, Some(b), Some(b), Some(false)),
                row(2, Some(a), None, None),
            ],
            unlocked_by: "recovery".into(),
            root: "/dev/mapper/root (ext4)".into(),
            refusal: Some("policy failure".into()),
            differences: vec!["PCR 1, command line: expected 00…, measured 11…".into()],
            tpm: TpmCommands {
                unlock: vec!["PCR_Read".into(), "PolicyPCR".into()],
                reported: 2,
                boot: 99,
            },
            secret: Secret { status: "unreachable".into(), tpm2_tools: Some("ERROR 0x99D".into()) },
            ran: Ran {
                entries: 19,
                leads_to_pcr: true,
                told: vec!["/usr/sbin/x: it has changed".into()],
            },
            logs: "build/demo/3a".into(),
            wire: Capture::new(Instant::now()),
        };
        let image = Sizes {
            path: "pi.img".into(),
            unseal: Some(2_000_000),
            initramfs: 900_000,
            fit: 3_400_000,
        };
        let journey = Journey { image: Some(image), boots: vec![boot], watched: None };
        let expected = "\
image      pi.img
           initramfs-unseal   2000000 bytes
           initramfs           900000 bytes
           FIT                3400000 bytes

boot 3a: changed command line
  stage                    at     took
  power-on              0.00s    1.50s
  Linux                 1.50s    0.00s
  PCR  predicted       …  measured        …
    0  ca978112ca1bbdca…  ca978112ca1bbdca…  as predicted, as sealed
    1  3e23e8160039594a…  3e23e8160039594a…  as predicted, differs from what was sealed
    2  ca978112ca1bbdca…  nothing         …  NOT AS PREDICTED
  root        /dev/mapper/root (ext4), unlocked by: recovery
  refusal     policy failure
  differs     PCR 1, command line: expected 00…, measured 11…
  TPM         2 commands from initramfs-unseal's start to the open root: PCR_Read PolicyPCR
              99 commands in the whole boot, U-Boot and Linux included
  secret      unreachable in the running system
              tpm2-tools: ERROR 0x99D
  IMA         19 entries, which lead to PCR 10
              /usr/sbin/x: it has changed
  logs        build/demo/3a
";
        assert_eq!(journey.to_string(), expected);
    }
}
