//! A collector of logs: rsyslogd with TLS, as a child of the test, on loopback.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// For something that has to happen. rsyslog tries again every five seconds at first.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The name in the collector's certificate.
pub const NAME: &str = "collector.test";

/// How long between two looks at what has to happen.
const PAUSE: Duration = Duration::from_millis(50);

/// A directory with certificates of two CAs, and a port of loopback.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
    /// Where the collector listens.
    pub port: u16,
}

/// A running rsyslogd, which is ended with the test.
#[derive(Debug)]
pub struct Rsyslog(Child);

impl Rsyslog {
    /// As systemd ends it: it writes what waits to the disk.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(mut self) {
        let id = self.0.id();
        let asked = Command::new("sh").arg("-c").arg(format!("kill -TERM {id}")).status();
        assert!(asked.expect("a shell").success());
        wait(|| self.0.try_wait().expect("a child").is_some(), || "it does not end".to_owned());
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    /// Makes the certificates: `right`, one of another name (`name`), one by another CA
    /// (`ca2`).
    ///
    /// # Panics
    /// When openssl fails.
    #[must_use]
    pub fn new() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("its address").port();
        let place = Self { dir: tempfile::tempdir().expect("a directory"), port };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        for ca in ["ca", "other-ca"] {
            let (subject, private, public) =
                (format!("/CN={ca}"), format!("{ca}.key"), format!("{ca}.pem"));
            let own = ["-subj", &subject, "-keyout", &private, "-out", &public];
            place.openssl(&[&["req", "-x509"], &key[..], &own].concat());
        }
        for (name, ca, host) in
            [("right", "ca", NAME), ("name", "ca", "other.test"), ("ca2", "other-ca", NAME)]
        {
            let (subject, names) = (format!("/CN={host}"), format!("subjectAltName=DNS:{host}"));
            let (by, with) = (format!("{ca}.pem"), format!("{ca}.key"));
            let (private, public) = (format!("{name}.key"), format!("{name}.pem"));
            let own = ["-subj", &subject, "-keyout", &private, "-out", &public];
            let issued = ["-CA", &by, "-CAkey", &with, "-addext", &names];
            let extensions = ["-addext", "basicConstraints=critical,CA:FALSE"];
            place.openssl(&[&["req", "-x509"], &key[..], &own, &issued, &extensions].concat());
        }
        place
    }

    /// A file of the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same for a configuration.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn openssl(&self, args: &[&str]) {
        let ran = Command::new("openssl").args(args).current_dir(self.dir.path()).output();
        let ran = ran.expect("openssl");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Starts rsyslogd.
    ///
    /// # Panics
    /// When it cannot be started: it belongs to the build root.
    #[must_use]
    pub fn start(&self, name: &str, configuration: &str) -> Rsyslog {
        let file = self.path(&format!("{name}.conf"));
        fs::write(&file, configuration).expect("its configuration");
        let log = fs::File::create(self.path(&format!("{name}.err"))).expect("its log");
        let started = Command::new("rsyslogd")
            .args(["-n", "-f"])
            .arg(&file)
            .arg("-i")
            .arg(self.path(&format!("{name}.pid")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log)
            .spawn();
        Rsyslog(started.expect("rsyslogd: it belongs to the build root"))
    }

    /// A collector with this certificate, which writes what it gets as the device sent it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn collector(&self, certificate: &str) -> Rsyslog {
        let [dir, ca, out] = ["", "ca.pem", "collected"].map(|name| self.shown(name));
        let [certificate, key] =
            ["pem", "key"].map(|kind| self.shown(&format!("{certificate}.{kind}")));
        let port = self.port;
        let text = format!(
            "global(workDirectory=\"{dir}\" processInternalMessages=\"on\" \
             DefaultNetstreamDriver=\"ossl\" DefaultNetstreamDriverCAFile=\"{ca}\" \
             DefaultNetstreamDriverCertFile=\"{certificate}\" \
             DefaultNetstreamDriverKeyFile=\"{key}\")\n\
             module(load=\"imtcp\" StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" \
             StreamDriver.AuthMode=\"anon\")\n\
             input(type=\"imtcp\" port=\"{port}\" address=\"127.0.0.1\")\n\
             template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             action(type=\"omfile\" file=\"{out}\" template=\"raw\")\n",
        );
        self.start("collector", &text)
    }

    /// What the collector has got.
    #[must_use]
    pub fn collected(&self) -> String {
        fs::read_to_string(self.path("collected")).unwrap_or_default()
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits for something that has to happen.
///
/// # Panics
/// When it does not, with what is missing.
pub fn wait(mut is_there: impl FnMut() -> bool, missing: impl Fn() -> String) {
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < DEADLINE, "{}", missing());
        thread::sleep(PAUSE);
    }
}
