//! Keylime in the operator's network namespace, and devices with emulated TPMs in theirs.

#![allow(dead_code)] // No test uses all of it.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::device::{Device, MANIFEST, vector};
use crate::net::{DEVICE, Net, OPERATOR};
use crate::services::{Ports, Services};

/// Where the operator's side of the link is.
const ADDRESS: &str = "10.99.1.2";

pub(crate) struct Keylime<'a> {
    net: &'a Net,
    services: Services<'a>,
}

impl<'a> Deref for Keylime<'a> {
    type Target = Services<'a>;

    fn deref(&self) -> &Services<'a> {
        &self.services
    }
}

impl DerefMut for Keylime<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.services
    }
}

impl<'a> Keylime<'a> {
    /// `verifier`: lines of the verifier's configuration, in place of those that are there.
    pub(crate) fn new(net: &'a Net, keylime: &Path, verifier: &str) -> Self {
        let start = |program: &str| net.command(OPERATOR, program);
        Self { net, services: Services::new(keylime, ADDRESS, Ports::USUAL, verifier, start) }
    }

    /// Enrols a device: what it may run, and what it has to have booted.
    pub(crate) fn enrol(&self, device: &Device, id: &str) {
        device.does(&format!(
            "reference root --as keylime --from-list list --output {}",
            self.path("policy.json").display()
        ));
        let manifest: Value = serde_json::from_slice(&fs::read(vector(MANIFEST)).unwrap()).unwrap();
        let pcrs: serde_json::Map<_, _> = ["0", "1", "8", "9"]
            .map(|pcr| (pcr.to_owned(), Value::from(vec![manifest["pcrs"][pcr].clone()])))
            .into_iter()
            .collect();
        let policy = self.path("policy.json").display().to_string();
        let pcrs = Value::from(pcrs).to_string();
        self.add(id, &["--runtime-policy", &policy, "--tpm_policy", &pcrs]);
    }

    /// Makes a boot policy of manifests.
    pub(crate) fn boots(&self, device: &Device, manifests: &[&Path]) -> String {
        let boots = self.path("boots").display().to_string();
        let manifests: String =
            manifests.iter().map(|path| format!("--manifest {} ", path.display())).collect();
        device.does(&format!("reference --as keylime-boot {manifests} --output {boots}"));
        boots
    }

    /// Enrols a device by what it may run, whatever its boot, and by the boots of manifests.
    pub(crate) fn enrol_boots(&self, device: &Device, id: &str, manifests: &[&Path]) {
        let programs = self.path("programs").display().to_string();
        device.does(&format!("reference root --as keylime --output {programs}"));
        let boots = self.boots(device, manifests);
        let policies = ["--runtime-policy", &programs, "--mb-policy", &boots];
        self.add(id, &policies);
    }

    /// Exit code of a device's agent after one verdict, and what it said.
    pub(crate) fn agent(&self, device: &Device, id: &str, rest: &str) -> (i32, String) {
        let ran = self.agent_command(device, id, &format!("--once {rest}")).output().unwrap();
        (ran.status.code().unwrap(), String::from_utf8(ran.stderr).unwrap())
    }

    pub(crate) fn agent_command(&self, device: &Device, id: &str, rest: &str) -> Command {
        let host = Services::name();
        fs::write(device.path("hosts"), format!("{ADDRESS} {host}\n")).unwrap();
        let line = format!(
            "mount --bind {}/hosts /etc/hosts && exec {} attest keylime --id {id} \
             --verifier https://{host}:8881 --registrar http://{ADDRESS}:8890 \
             --ca {} --list list.txt --event-log firmware.log \
             --run-dir run --state-dir state {rest}",
            device.path("").display(),
            env!("CARGO_BIN_EXE_ima-policy"),
            self.authority().display(),
        );
        let mut command = self.net.command(DEVICE, "unshare");
        command.args(["--mount", "--propagation=unchanged", "sh", "-c", &line]);
        command.current_dir(device.path("")).env("TPM2TOOLS_TCTI", device.tpm.tcti());
        command
    }

    pub(crate) fn quarantined(&self, device: &Device) -> bool {
        let mut command = self.net.command(DEVICE, env!("CARGO_BIN_EXE_ima-policy"));
        let state = device.path("state");
        let ran =
            command.args(["quarantine", "status", "--state-dir"]).arg(state).output().unwrap();
        ran.status.code().unwrap() == 1
    }
}
