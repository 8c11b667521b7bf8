//! Keylime's registrar, verifier and tenant (7.14.3), and our agent on devices with emulated
//! TPMs: a healthy one is accepted, those that are not are refused, and put themselves into
//! quarantine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/device.rs"]
mod device;
#[path = "keylime/install.rs"]
mod install;
#[path = "common/net.rs"]
mod net;
#[allow(dead_code)] // No test uses all of it.
#[path = "../../pcr-measure/tests/common/mod.rs"]
mod tpm;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use device::{Device, MANIFEST, vector};
use net::{DEVICE, Net, OPERATOR, STRANGER};
use serde_json::Value;

/// Where the operator's side of the link is.
const ADDRESS: &str = "10.99.1.2";

/// Keylime's services, in the operator's namespace. They end with the value.
struct Keylime<'a> {
    net: &'a Net,
    python: PathBuf,
    dir: tempfile::TempDir,
    services: Vec<Child>,
}

impl<'a> Keylime<'a> {
    fn new(net: &'a Net, keylime: &Path, verifier: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in configuration(dir.path()) {
            let text = text.replace("[verifier]", &format!("[verifier]\n{verifier}"));
            fs::write(dir.path().join(format!("{name}.conf")), text).unwrap();
        }
        Self { net, python: keylime.join("bin/python3"), dir, services: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, what: &str) -> Command {
        let mut command = self.net.command(OPERATOR, self.python.to_str().unwrap());
        command.args(["-c", &format!("from keylime.cmd.{what} import main; main()")]);
        command.env("KEYLIME_DIR", self.dir.path());
        for name in ["verifier", "registrar", "tenant", "ca", "logging"] {
            let variable = format!("KEYLIME_{}_CONFIG", name.to_uppercase());
            command.env(variable, self.path(&format!("{name}.conf")));
        }
        command
    }

    /// Starts a service, and waits until it answers.
    fn start(&mut self, what: &str, port: u16) {
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

    fn log(&self, what: &str) -> String {
        fs::read_to_string(self.path(&format!("{what}.log"))).unwrap_or_default()
    }

    /// What the tenant says.
    fn tenant(&self, args: &[&str]) -> String {
        let ran = self.command("tenant").args(args).output().unwrap();
        let said = [ran.stdout, ran.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(ran.status.success(), "{args:?}: {said}\n{}", self.log("verifier"));
        said
    }

    /// Enrols a device: what it may run, and what it has to have booted.
    fn enrol(&self, device: &Device, id: &str) {
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

    fn status(&self, id: &str) -> String {
        self.tenant(&["-c", "cvstatus", "--push-model", "-u", id])
    }

    /// Exit code of a device's agent after one verdict, and what it said.
    fn agent(&self, device: &Device, id: &str, rest: &str) -> (i32, String) {
        let ran = self.agent_command(device, id, &format!("--once {rest}")).output().unwrap();
        (ran.status.code().unwrap(), String::from_utf8(ran.stderr).unwrap())
    }

    fn agent_command(&self, device: &Device, id: &str, rest: &str) -> Command {
        // The verifier's certificate is for this machine's name.
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim();
        fs::write(device.path("hosts"), format!("{ADDRESS} {host}\n")).unwrap();
        let line = format!(
            "mount --bind {}/hosts /etc/hosts && exec {} attest keylime --id {id} \
             --verifier https://{host}:8881 --registrar http://{ADDRESS}:8890 \
             --ca {}/cv_ca/cacert.crt --list list.txt --event-log {} --run-dir run \
             --state-dir state {rest}",
            device.path("").display(),
            env!("CARGO_BIN_EXE_ima-policy"),
            self.dir.path().display(),
            vector("uboot-expected.bin").display(),
        );
        let mut command = self.net.command(DEVICE, "unshare");
        command.args(["--mount", "--propagation=unchanged", "sh", "-c", &line]);
        command.current_dir(device.path("")).env("TPM2TOOLS_TCTI", device.tpm.tcti());
        command
    }

    fn quarantined(&self, device: &Device) -> bool {
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

const QUARANTINE: &str = "--on-refused quarantine --allow 10.99.1.2";

#[test]
fn keylime_accepts_the_healthy_and_the_others_go_into_quarantine() {
    let Some(python) = install::keylime() else { return };
    let Some(mut net) = Net::new("k") else { return };
    net.serve();
    let Some(mut healthy) = Device::new() else { return };
    let Some(mut tampered) = Device::new() else { return };
    let other = |component: &str, digest: &str| match component {
        "kernel" => "11".repeat(32),
        _ => digest.to_owned(),
    };
    let Some(rebuilt) = Device::booted(other) else { return };

    let mut keylime = Keylime::new(&net, python, "");
    keylime.start("verifier", 8881);
    // No registrar yet, and then a verifier that does not know the device: nobody is refused.
    let (code, said) = keylime.agent(&healthy, "healthy", QUARANTINE);
    assert_eq!(code, 2, "{said}");
    keylime.start("registrar", 8890);
    let (code, said) = keylime.agent(&healthy, "healthy", QUARANTINE);
    assert!(code == 2 && said.contains("enrol it there"), "{code} {said}");
    assert!(!keylime.quarantined(&healthy));

    keylime.enrol(&healthy, "healthy");
    let (code, said) = keylime.agent(&healthy, "healthy", QUARANTINE);
    assert!(code == 0 && said.contains("new entries: 3"), "{code} {said}");
    // What has run since then is all that is sent.
    healthy.runs("/c", b"c");
    let (code, said) = keylime.agent(&healthy, "healthy", QUARANTINE);
    assert!(code == 0 && said.contains("new entries: 1"), "{code} {said}");
    let status = keylime.status("healthy");
    assert!(status.contains(r#""attestation_status": "PASS""#), "{status}");
    assert!(status.contains(r#""attestation_count": 2"#), "{status}");

    // A program that nobody knows.
    let (code, _) = keylime.agent(&tampered, "tampered", "");
    assert_eq!(code, 2);
    keylime.enrol(&tampered, "tampered");
    let (code, said) = keylime.agent(&tampered, "tampered", QUARANTINE);
    assert_eq!(code, 0, "premise: {said}");
    assert!(!keylime.quarantined(&tampered), "premise");
    assert!(net.reaches(STRANGER, "10.99.2.1"), "premise");
    tampered.runs("/tmp/intruder", b"evil");
    let (code, said) = keylime.agent(&tampered, "tampered", QUARANTINE);
    assert!(code == 1 && said.contains("is in quarantine"), "{code} {said}");
    assert!(keylime.quarantined(&tampered));
    let (both, none) = ([true, false], [false; 2]);
    assert_eq!(net.paths(), [both, both, none, none], "the operator alone, by the address allowed");
    assert!(keylime.status("tampered").contains("FAIL"));
    assert!(keylime.log("verifier").contains("/tmp/intruder"));

    // The other one, in the same network, still reports; and is still a healthy one.
    let (code, said) = keylime.agent(&healthy, "healthy", "");
    assert_eq!(code, 0, "{said}");

    // Another boot than that of the manifest.
    let (code, _) = keylime.agent(&rebuilt, "rebuilt", "");
    assert_eq!(code, 2);
    keylime.enrol(&rebuilt, "rebuilt");
    let (code, said) = keylime.agent(&rebuilt, "rebuilt", "");
    assert_eq!(code, 1, "{said}");
    assert!(keylime.log("verifier").contains("PCR #8"), "{}", keylime.log("verifier"));
}

/// An agent that goes on, and ends with the value.
struct Going(Child);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn an_agent_goes_on_when_its_session_has_ended() {
    let Some(python) = install::keylime() else { return };
    let Some(net) = Net::new("s") else { return };
    let Some(device) = Device::new() else { return };
    let short = "session_lifetime = 3\nextend_token_on_attestation = False";
    let mut keylime = Keylime::new(&net, python, short);
    keylime.start("verifier", 8881);
    keylime.start("registrar", 8890);
    let (_, said) = keylime.agent(&device, "device", "");
    assert!(said.contains("enrol it there"), "{said}");
    keylime.enrol(&device, "device");
    let mut command = keylime.agent_command(&device, "device", QUARANTINE);
    let mut going = Going(command.stderr(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(going.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let (mut said, mut accepted, begun) = (Vec::new(), 0, Instant::now());
    for line in lines {
        assert!(!line.contains("refuses"), "{line}");
        accepted += u32::from(line.contains("accepts"));
        said.push(line);
        let has_ended = keylime.log("verifier").contains("Sent 401");
        if has_ended && accepted > 4 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{said:?}");
    }
    panic!("{said:?}");
}

#[test]
fn a_name_is_one_devices() {
    let Some(python) = install::keylime() else { return };
    let Some(net) = Net::new("n") else { return };
    let Some(first) = Device::new() else { return };
    let Some(second) = Device::new() else { return };
    let mut keylime = Keylime::new(&net, python, "");
    keylime.start("verifier", 8881);
    keylime.start("registrar", 8890);
    let (_, said) = keylime.agent(&first, "name", "");
    assert!(said.contains("enrol it there"), "{said}");
    let (code, said) = keylime.agent(&second, "name", "");
    assert!(code == 2 && said.contains("registering the device: the answer is 403"), "{said}");
    // A verifier of another authority is nobody.
    keylime.enrol(&first, "name");
    let authority = keylime.path("cv_ca/cacert.crt");
    let good = fs::read(&authority).unwrap();
    let make = "req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=other -out";
    let other = keylime.path("other.crt");
    let made = Command::new("openssl").args(make.split(' ')).arg(&other).output().unwrap();
    assert!(made.status.success());
    fs::copy(&other, &authority).unwrap();
    let (code, said) = keylime.agent(&first, "name", QUARANTINE);
    assert!(code == 2 && said.to_lowercase().contains("certificate"), "{said}");
    assert!(!keylime.quarantined(&first));
    fs::write(&authority, good).unwrap();
    let (code, said) = keylime.agent(&first, "name", QUARANTINE);
    assert_eq!(code, 0, "premise: {said}");
}
