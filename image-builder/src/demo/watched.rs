//! A device that watches itself: a program that was changed and a module that nobody knows are
//! told in its own log, and at a collector elsewhere.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use emulated_board::Network;
use ima_policy::reference::Reference;
use serde::{Deserialize, Serialize};

use super::{
    collector::{NAME, Place},
    journey::{JourneyError, provision},
    record::{BootRecord, Ran},
};
use crate::{
    emu::{boot::BootError, card::Card, device::Device, shell::Shell},
    progress::Progress,
};

/// The boot's name.
const BOOT: &str = "5-watched";
const TITLE: &str = "another device, which runs what is signed, and watches itself";

/// Where the device's own log is.
const LOG: &str = "/var/log/syslog";
/// A program of the root that is changed.
const CHANGED: &str = "/usr/bin/hostname";
/// A module of the root, by its name for modprobe.
const MODULE: &str = "dummy";
/// A changed copy of it.
const OWN: &str = "/root/own.ko";

/// How long a report may take to get to the collector: rsyslog tries again after five seconds
/// at first.
const ELSEWHERE: Duration = Duration::from_secs(60);
/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// The device to be watched.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its image, of a recipe that [`recipe`] has completed.
    pub image: Card,
    /// What was made with it.
    pub reference: Reference,
}

/// One report, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// What is reported.
    #[serde(flatten)]
    pub report: Report,
    /// Whether the device's own log has it.
    pub here: bool,
    /// Whether the collector has it.
    pub elsewhere: bool,
}

/// A report of `ima-policy watch`, as far as it is used here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `bad-signature`, `module`, …
    pub event: String,
    /// syslog's word for how bad it is.
    pub severity: String,
    /// What it is about.
    pub name: String,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Watching {
    /// The boot.
    #[serde(flatten)]
    pub boot: BootRecord,
    /// What the shell said when the changed program was started.
    pub refusal: String,
    /// From just before the changed program was started to when its report was seen in the
    /// device's own log, which was looked at every 50 ms.
    pub told_after: Duration,
    /// The reports that are more than information, in order, and those on modules.
    pub told: Vec<Told>,
}

/// A recipe with the collector at `place` in it, as the emulated board reaches that.
#[must_use]
pub fn recipe(shipped: &str, place: &Place) -> String {
    let table = toml::toml! {
        server = (Network::REACHED.to_string())
        ca = (place.shown("ca.pem"))
        name = NAME
    };
    let logging = toml::Table::from_iter([("logging".to_owned(), toml::Value::Table(table))]);
    format!("{shipped}\n{logging}")
}

/// The reports in a log.
#[must_use]
pub fn reports(log: &str) -> Vec<Report> {
    #[derive(Deserialize)]
    struct Line {
        ima: Report,
    }
    let json = log.lines().filter_map(|line| line.split_once("@cee: "));
    json.filter_map(|(_, json)| serde_json::from_str::<Line>(json.trim()).ok())
        .map(|line| line.ima)
        .collect()
}

/// Runs the device in `dir`, with a collector that listens at `place`.
///
/// # Errors
/// [`JourneyError`], which names expectation, what came instead, and the log.
pub fn watched(
    watched: &Watched,
    place: &Place,
    dir: &Path,
    progress: &Progress,
) -> Result<Watching, JourneyError> {
    let task = progress.task(BOOT);
    let collector = place.collector("right")?;
    let device = Device::new(&dir.join("watched-device"), &watched.image)?
        .with_network(Network::Reach(place.port));
    task.step("power-on");
    let mut boot = device.boot(BOOT, &dir.join(BOOT))?;
    provision(&mut boot, |step| task.step(step))?;
    let mut shell = boot.userland()?;
    let status = shell.status()?;
    task.step("it watches");
    begun(&mut shell, place)?;
    task.step("a changed program");
    let (refusal, told_after) = change(&mut shell)?;
    task.step("modules");
    let load = format!("modprobe {MODULE} && readlink -f $(modprobe -D {MODULE} | cut -d' ' -f2)");
    let known = must(&mut shell, &load)?.trim().to_owned();
    must(&mut shell, &format!("rmmod {MODULE}; cp {known} {OWN}; echo >>{OWN}"))?;
    if shell.run(&format!("insmod {OWN} 2>&1"))?.code == 0 {
        return Err(shell
            .boot()
            .deviation("a module of one's own is refused", "it is loaded")
            .into());
    }
    task.step("reports");
    let expected = [("bad-signature", CHANGED), ("module", known.as_str()), ("module", OWN)];
    let told = told(&mut shell, place, &expected)?;
    let records = shell.measurements()?;
    shell.power_off()?;
    collector.end()?;
    let ran = Ran::of(&records, Some(&watched.reference), &status.pcrs)?;
    let manifests = (watched.image.manifest(), watched.image.manifest());
    let boot = BootRecord::of(BOOT, TITLE, &boot, status, ran, manifests);
    task.finish();
    Ok(Watching { boot, refusal, told_after, told })
}

/// What a command prints, which must succeed.
fn must(shell: &mut Shell<'_>, command: &str) -> Result<String, BootError> {
    let output = shell.run(command)?;
    if output.code == 0 {
        return Ok(output.text);
    }
    let instead = format!("exit code {}: {}", output.code, output.text.trim());
    Err(shell.boot().deviation(&format!("`{command}` succeeds"), instead))
}

/// Waits until `what` is so.
fn wait(
    shell: &mut Shell<'_>,
    what: &str,
    mut is_so: impl FnMut(&mut Shell<'_>) -> Result<bool, BootError>,
    instead: impl FnOnce() -> String,
) -> Result<(), BootError> {
    let begun = Instant::now();
    while !is_so(shell)? {
        if begun.elapsed() > ELSEWHERE {
            return Err(shell.boot().deviation(what, instead()));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Waits until the device watches, and its log gets to the collector.
fn begun(shell: &mut Shell<'_>, place: &Place) -> Result<(), BootError> {
    let line = "watching begins";
    let command = format!("grep -q '{line}' {LOG}");
    wait(
        shell,
        "the log says that watching begins",
        |shell| Ok(shell.run(&command)?.code == 0),
        || "it does not".to_owned(),
    )?;
    let collected = || place.collected().contains(line);
    wait(shell, "the collector has it", |_| Ok(collected()), || place.collected())
}

/// Changes a program and starts it; gives what the shell says, and how long it takes until that
/// is told.
fn change(shell: &mut Shell<'_>) -> Result<(String, Duration), BootError> {
    let now = "cut -d' ' -f1 /proc/uptime";
    let is_told = format!("grep '\"event\":\"bad-signature\"' {LOG} | grep -q '{CHANGED}'");
    // As it is, it runs.
    must(shell, &format!("{CHANGED} && echo >>{CHANGED}"))?;
    let output = shell.run(&format!(
        "{now}; {CHANGED} 2>&1; n=0; until {is_told} || [ $n = 200 ]; do sleep 0.05; \
         n=$((n+1)); done; {now}; {is_told}"
    ))?;
    let lines: Vec<&str> = output.text.lines().collect();
    let seconds = |line: &&str| line.parse::<f64>().ok();
    if let (0, [first, said @ .., last]) = (output.code, lines.as_slice())
        && let (Some(first), Some(last)) = (seconds(first), seconds(last))
        && let Ok(after) = Duration::try_from_secs_f64(last - first)
    {
        return Ok((said.join(" "), after));
    }
    Err(shell.boot().deviation("the changed program is told", output.text))
}

/// What is told here, and what of it elsewhere, once the collector has what is expected.
fn told(
    shell: &mut Shell<'_>,
    place: &Place,
    expected: &[(&str, &str)],
) -> Result<Vec<Told>, BootError> {
    let has = |log: &str| {
        let reports = reports(log);
        expected.iter().all(|(event, name)| {
            reports
                .iter()
                .any(|report| (report.event.as_str(), report.name.as_str()) == (*event, *name))
        })
    };
    let what = "the collector has the reports";
    wait(shell, what, |_| Ok(has(&place.collected())), || place.collected())?;
    let here = reports(&must(shell, &format!("grep @cee {LOG}"))?);
    let elsewhere = reports(&place.collected());
    let matters = |report: &&Report| report.severity != "info" || report.event == "module";
    let mut all: Vec<Report> = here.iter().filter(matters).cloned().collect();
    for report in elsewhere.iter().filter(matters) {
        if !all.contains(report) {
            all.push(report.clone());
        }
    }
    let told = |report: Report| Told {
        here: here.contains(&report),
        elsewhere: elsewhere.contains(&report),
        report,
    };
    Ok(all.into_iter().map(told).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_found_between_other_lines() {
        let log = "1970-01-01T00:00:09 d kernel: x\n\
                   1970 d ima-policy[7]: @cee: {\"msg\":\"m\",\"ima\":{\"event\":\"module\",\"severity\":\
                   \"alert\",\"name\":\"/root/own.ko\",\"entry\":7}}\n\
                   1970 d ima-policy[7]: @cee: {\"msg\":\"cut";
        let expected = Report {
            event: "module".to_owned(),
            severity: "alert".to_owned(),
            name: "/root/own.ko".to_owned(),
        };
        assert_eq!(reports(log), [expected]);
    }
}
