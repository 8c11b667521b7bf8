//! Keylime's registrar, verifier and tenant, on an address of this machine.

#![allow(dead_code)] // No test uses all of it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where our modules for Keylime lie.
const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ima-policy/keylime");

/// Where the services listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) verifier: u16,
    pub(crate) registrar: u16,
    registrar_tls: u16,
    notifications: u16,
}

impl Ports {
    /// Keylime's own, for a network where nobody else is.
    pub(crate) const USUAL: Self =
        Self { verifier: 8881, registrar: 8890, registrar_tls: 8891, notifications: 8992 };

    /// Such as are free on this machine's loopback.
    pub(crate) fn free() -> Self {
        let taken = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [verifier, registrar, registrar_tls, notifications] =
            taken.each_ref().map(|socket| socket.local_addr().unwrap().port());
        Self { verifier, registrar, registrar_tls, notifications }
    }
}

/// The services. They end with the value.
pub(crate) struct Services<'a> {
    /// How a program is started where they are.
    start: Box<dyn Fn(&str) -> Command + 'a>,
    address: String,
    pub(crate) ports: Ports,
    python: PathBuf,
    /// Where Python looks first.
    modules: String,
    dir: tempfile::TempDir,
    services: Vec<Child>,
}

impl<'a> Services<'a> {
    /// `verifier`: lines of the verifier's configuration, in place of those that are there.
    pub(crate) fn new(
        keylime: &Path,
        address: &str,
        ports: Ports,
        verifier: &str,
        start: impl Fn(&str) -> Command + 'a,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = |line: &str| line.split_once(" =").map(|(key, _)| key.to_owned());
        for (name, mut text) in configuration(dir.path(), address, ports) {
            if name == "verifier" {
                let is_kept = |its: &&str| !verifier.lines().any(|line| key(line) == key(its));
                let kept: Vec<_> = text.lines().filter(is_kept).chain(verifier.lines()).collect();
                text = kept.join("\n");
            }
            fs::write(dir.path().join(format!("{name}.conf")), text).unwrap();
        }
        Self {
            start: Box::new(start),
            address: address.to_owned(),
            ports,
            python: keylime.join("bin/python3"),
            modules: MODULES.to_owned(),
            dir,
            services: Vec::new(),
        }
    }

    /// Runs a copy of Keylime with one of our patches instead.
    pub(crate) fn patch(&mut self, patch: &str) {
        let find = "import keylime, os; print(os.path.dirname(keylime.__file__))";
        let found = Command::new(&self.python).args(["-c", find]).output().unwrap();
        let package = String::from_utf8(found.stdout).unwrap();
        let copy = self.path("patched");
        fs::create_dir(&copy).unwrap();
        for command in [
            Command::new("cp").args(["-r", package.trim()]).arg(&copy),
            Command::new("patch")
                .args(["--quiet", "-p1", "-i"])
                .arg(fs::canonicalize(MODULES).unwrap().join(patch))
                .current_dir(&copy),
        ] {
            assert!(command.status().unwrap().success(), "{command:?}");
        }
        self.modules = format!("{}:{MODULES}", copy.display());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The certificate of the verifier's authority, which it makes when it starts.
    pub(crate) fn authority(&self) -> PathBuf {
        self.path("cv_ca/cacert.crt")
    }

    /// The name in the verifier's certificate: this machine's.
    pub(crate) fn name() -> String {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
    }

    fn command(&self, what: &str) -> Command {
        let mut command = (self.start)(self.python.to_str().unwrap());
        command.args(["-c", &format!("from keylime.cmd.{what} import main; main()")]);
        command.env("KEYLIME_DIR", self.dir.path());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PYTHONPATH", &self.modules);
        for name in ["verifier", "registrar", "tenant", "ca", "logging"] {
            let variable = format!("KEYLIME_{}_CONFIG", name.to_uppercase());
            command.env(variable, self.path(&format!("{name}.conf")));
        }
        command
    }

    /// Starts the verifier, which makes the certificates of all of them.
    pub(crate) fn start_verifier(&mut self) {
        self.start("verifier", self.ports.verifier);
    }

    pub(crate) fn start_registrar(&mut self) {
        self.start("registrar", self.ports.registrar);
    }

    /// Starts a service, and waits until it answers.
    fn start(&mut self, what: &str, port: u16) {
        let log = fs::File::create(self.path(&format!("{what}.log"))).unwrap();
        let mut command = self.command(what);
        // A group of its own: it has workers.
        command.process_group(0).stderr(log.try_clone().unwrap()).stdout(log);
        self.services.push(command.spawn().unwrap());
        let connect =
            format!("import socket; socket.create_connection(('{}', {port}), 1)", self.address);
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let mut command = (self.start)("python3");
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

    /// Adds a device, by what it may run and boot.
    pub(crate) fn add(&self, id: &str, policies: &[&str]) {
        self.tenant(&[&["-c", "add", "--push-model", "-u", id], policies].concat());
    }

    pub(crate) fn status(&self, id: &str) -> String {
        self.tenant(&["-c", "cvstatus", "--push-model", "-u", id])
    }
}

impl Drop for Services<'_> {
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
fn configuration(dir: &Path, address: &str, ports: Ports) -> [(&'static str, String); 5] {
    let Ports { verifier, registrar, registrar_tls, notifications } = ports;
    let tls = "trusted_client_ca = default\nserver_key = default\nserver_key_password =\n\
               server_cert = default\nclient_key = default\nclient_key_password =\n\
               client_cert = default\ntrusted_server_ca = default\n";
    let database = "database_url = sqlite\ndatabase_pool_sz_ovfl = 5,10\nauto_migrate_db = True\n\
                    max_upload_size = 104857600\ndurable_attestation_import =\n";
    let retry = "exponential_backoff = False\nretry_interval = 1\nmax_retries = 3\n\
                 request_timeout = 60\nenable_agent_mtls = True\n";
    let verifier_conf = format!(
        "[verifier]\nversion = 2.5\nmode = push\nuuid = default\nip = {address}\nport = {verifier}\n\
         registrar_ip = {address}\nregistrar_port = {registrar_tls}\ntls_dir = generate\n{tls}{database}{retry}\
         num_workers = 1\nquote_interval = 1\nverification_timeout = 60\n\
         measured_boot_policy_name = accept-all\nmeasured_boot_imports = []\n\
         measured_boot_evaluate = once\nseverity_labels = [\"info\", \"emergency\"]\n\
         severity_policy = [{{\"event_id\": \".*\", \"severity_label\": \"emergency\"}}]\n\
         ignore_tomtou_errors = False\nrequire_allow_list_signatures = False\n\
         enabled_revocation_notifications = []\nzmq_ip = 127.0.0.1\nzmq_port = {notifications}\nwebhook_url =\n"
    );
    let registrar_conf = format!(
        "[registrar]\nversion = 2.5\nip = {address}\nport = {registrar}\ntls_port = {registrar_tls}\n\
         tls_dir = default\n{tls}{database}malformed_cert_action = warn\ntpm_identity = default\n"
    );
    let tenant = format!(
        "[tenant]\nversion = 2.5\nverifier_ip = {address}\nverifier_port = {verifier}\n\
         registrar_ip = {address}\nregistrar_port = {registrar_tls}\ntls_dir = default\n{tls}{retry}\
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
        ("verifier", verifier_conf),
        ("registrar", registrar_conf),
        ("tenant", tenant),
        ("ca", authority.to_owned()),
        ("logging", logging.to_owned()),
    ]
}
