//! Keylime's registrar, verifier and tenant, configured for devices with emulated TPMs.

#![allow(dead_code)] // No test uses all of it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::device::{Device, MANIFEST, vector};
use crate::net::{DEVICE, Net, OPERATOR};

/// Where the operator's side of the link is.
pub(crate) const ADDRESS: &str = "10.99.1.2";

/// Keylime's services, in the operator's namespace. They end with the value.
pub(crate) struct Keylime<'a> {
    net: &'a Net,
    python: PathBuf,
    dir: tempfile::TempDir,
    services: Vec<Child>,
}

impl<'a> Keylime<'a> {
    /// `verifier`: lines of the verifier's configuration, in place of those that are there.
    pub(crate) fn new(net: &'a Net, keylime: &Path, verifier: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = |line: &str| line.split_once(" =").map(|(key, _)| key.to_owned());
        for (name, mut text) in configuration(dir.path()) {
            if name == "verifier" {
                let is_kept = |its: &&str| !verifier.lines().any(|line| key(line) == key(its));
                let kept: Vec<_> = text.lines().filter(is_kept).chain(verifier.lines()).collect();
                text = kept.join("\n");
            }
            fs::write(dir.path().join(format!("{name}.conf")), text).unwrap();
        }
        Self { net, python: keylime.join("bin/python3"), dir, services: Vec::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, what: &str) -> Command {
        let mut command = self.net.command(OPERATOR, self.python.to_str().unwrap());
        command.args(["-c", &format!("from keylime.cmd.{what} import main; main()")]);
        command.env("KEYLIME_DIR", self.dir.path());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/keylime"));
        for name in ["verifier", "registrar", "tenant", "ca", "logging"] {
            let variable = format!("KEYLIME_{}_CONFIG", name.to_uppercase());
            command.env(variable, self.path(&format!("{name}.conf")));
        }
        command
    }

    /// Starts a service, and waits until it answers.
    pub(crate) fn start(&mut self, what: &str, port: u16) {
        let log = fs::File::create(self.path(&format!("{what}.log"))).unwrap();
        let mut command = self.command(what);
        // A group of its own: it has workers.
        command.process_group(0).stderr(log.try_clone().unwrap()).stdout(log);
        self.services.push(command.spawn().unwrap());
        let connect = format!("import socket; socket.create_connection(('{ADDRESS}', {port}), 1)");
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let mut command = self.net.command(OPERATOR, "python3");
            if command.args(["-c", &connect]).stderr(Stdio::null()).status().unwrap().success() {
                return;
            }
            assert!(Instant::now() < end, "{what}: {}", self.log(what));
        }
    }

    pub(crate) fn log(&self, what: &str) -> String {
        fs::read_to_string(self.path(&format!("{what}.log"))).unwrap_or_default()
    }

    /// What the tenant says.
    pub(crate) fn tenant(&self, args: &[&str]) -> String {
        let ran = self.command("tenant").args(args).output().unwrap();
        let said = [ran.stdout, ran.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(ran.status.success(), "{args:?}: {said}\n{}", self.log("verifier"));
        said
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
        self.tenant(&[
            "-c",
            "add",
            "--push-model",
            "-u",
            id,
            "--runtime-policy",
            &policy,
            "--tpm_policy",
            &Value::from(pcrs).to_string(),
        ]);
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
        self.tenant(&[&["-c", "add", "--push-model", "-u", id], &policies[..]].concat());
    }

    pub(crate) fn status(&self, id: &str) -> String {
        self.tenant(&["-c", "cvstatus", "--push-model", "-u", id])
    }

    /// Exit code of a device's agent after one verdict, and what it said.
    pub(crate) fn agent(&self, device: &Device, id: &str, rest: &str) -> (i32, String) {
        let ran = self.agent_command(device, id, &format!("--once {rest}")).output().unwrap();
        (ran.status.code().unwrap(), String::from_utf8(ran.stderr).unwrap())
    }

    pub(crate) fn agent_command(&self, device: &Device, id: &str, rest: &str) -> Command {
        // The verifier's certificate is for this machine's name.
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim();
        fs::write(device.path("hosts"), format!("{ADDRESS} {host}\n")).unwrap();
        let line = format!(
            "mount --bind {}/hosts /etc/hosts && exec {} attest keylime --id {id} \
             --verifier https://{host}:8881 --registrar http://{ADDRESS}:8890 \
             --ca {}/cv_ca/cacert.crt --list list.txt --event-log firmware.log \
             --run-dir run --state-dir state {rest}",
            device.path("").display(),
            env!("CARGO_BIN_EXE_ima-policy"),
            self.dir.path().display(),
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

impl Drop for Keylime<'_> {
    fn drop(&mut self) {
        for service in &mut self.services {
            let group = format!("-{}", service.id());
            Command::new("kill").args(["-TERM", "--", &group]).status().ok();
            let end = Instant::now() + Duration::from_secs(20);
            while service.try_wait().unwrap().is_none() {
                if Instant::now() > end {
                    Command::new("kill").args(["-KILL", "--", &group]).status().ok();
                    service.wait().ok();
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.log("verifier"), self.log("registrar"));
        }
    }
}

/// As little as the services start with.
fn configuration(dir: &Path) -> [(&'static str, String); 5] {
    let tls = "trusted_client_ca = default\nserver_key = default\nserver_key_password =\n\
               server_cert = default\nclient_key = default\nclient_key_password =\n\
               client_cert = default\ntrusted_server_ca = default\n";
    let database = "database_url = sqlite\ndatabase_pool_sz_ovfl = 5,10\nauto_migrate_db = True\n\
                    max_upload_size = 104857600\ndurable_attestation_import =\n";
    let retry = "exponential_backoff = False\nretry_interval = 1\nmax_retries = 3\n\
                 request_timeout = 60\nenable_agent_mtls = True\n";
    let verifier = format!(
        "[verifier]\nversion = 2.5\nmode = push\nuuid = default\nip = {ADDRESS}\nport = 8881\n\
         registrar_ip = {ADDRESS}\nregistrar_port = 8891\ntls_dir = generate\n{tls}{database}{retry}\
         num_workers = 1\nquote_interval = 1\nverification_timeout = 60\n\
         measured_boot_policy_name = accept-all\nmeasured_boot_imports = []\n\
         measured_boot_evaluate = once\nseverity_labels = [\"info\", \"emergency\"]\n\
         severity_policy = [{{\"event_id\": \".*\", \"severity_label\": \"emergency\"}}]\n\
         ignore_tomtou_errors = False\nrequire_allow_list_signatures = False\n\
         enabled_revocation_notifications = []\nzmq_ip = 127.0.0.1\nzmq_port = 8992\nwebhook_url =\n"
    );
    let registrar = format!(
        "[registrar]\nversion = 2.5\nip = {ADDRESS}\nport = 8890\ntls_port = 8891\n\
         tls_dir = default\n{tls}{database}malformed_cert_action = warn\ntpm_identity = default\n"
    );
    let tenant = format!(
        "[tenant]\nversion = 2.5\nverifier_ip = {ADDRESS}\nverifier_port = 8881\n\
         registrar_ip = {ADDRESS}\nregistrar_port = 8891\ntls_dir = default\n{tls}{retry}\
         tpm_cert_store = {}\nmax_payload_size = 1048576\naccept_tpm_hash_algs = [\"sha256\"]\n\
         accept_tpm_encryption_algs = [\"rsa\", \"ecc\"]\naccept_tpm_signing_algs = [\"rsassa\"]\n\
         require_ek_cert = False\nek_check_script =\nmb_refstate =\n",
        dir.display()
    );
    let authority = "[ca]\nversion = 2.5\npassword = default\ncert_country = US\n\
         cert_ca_name = test\ncert_state = X\ncert_locality = X\ncert_organization = X\n\
         cert_org_unit = X\ncert_ca_lifetime = 10\ncert_lifetime = 10\ncert_bits = 2048\n\
         cert_crl_dist = http://localhost/crl\n";
    let logging = "[logging]\nversion = 2.5\n[loggers]\nkeys = root,keylime\n[handlers]\n\
         keys = console\n[formatters]\nkeys = plain\n[formatter_plain]\n\
         format = %(name)s %(levelname)s %(message)s\n[logger_root]\nlevel = INFO\n\
         handlers = console\n[handler_console]\nclass = StreamHandler\nlevel = INFO\n\
         formatter = plain\nargs = (sys.stdout,)\n[logger_keylime]\nlevel = INFO\n\
         qualname = keylime\nhandlers =\n";
    [
        ("verifier", verifier),
        ("registrar", registrar),
        ("tenant", tenant),
        ("ca", authority.to_owned()),
        ("logging", logging.to_owned()),
    ]
}
