//! A collector of logs elsewhere: rsyslogd with TLS, on loopback.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::image::tool::{Tool, ToolError};

/// The name in the collector's certificate.
pub const NAME: &str = "collector.test";

/// How long rsyslogd may take to end: it writes what waits to the disk.
const END: Duration = Duration::from_secs(60);

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no collector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectorError {
    /// A file of its.
    #[error("cannot write {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No port, or no rsyslogd.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// rsyslogd goes on.
    #[error("rsyslogd does not end")]
    Endless,
}

/// A directory with certificates of two CAs, and a port of loopback.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    /// Where the collector listens.
    pub port: u16,
}

/// A running rsyslogd, which is ended with the value.
#[derive(Debug)]
pub struct Rsyslog(Child);

impl Rsyslog {
    /// As systemd ends it: it writes what waits to the disk.
    ///
    /// # Errors
    /// [`CollectorError`] when it does not end.
    pub fn end(mut self) -> Result<(), CollectorError> {
        let system = |what| move |source| CollectorError::System { what, source };
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
            .map_err(|error| system("end rsyslogd")(error.into()))?;
        let begun = Instant::now();
        while self.0.try_wait().map_err(system("wait for rsyslogd"))?.is_none() {
            if begun.elapsed() > END {
                return Err(CollectorError::Endless);
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    /// Makes the certificates in `dir`, which is there: `right`, one of another name (`name`), one
    /// by another CA (`ca2`). They are valid since 1970, where a board without a clock begins.
    ///
    /// # Errors
    /// [`CollectorError`]
    pub fn new(dir: &Path) -> Result<Self, CollectorError> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|socket| socket.local_addr())
            .map_err(|source| CollectorError::System { what: "find a free port", source })?
            .port();
        let place = Self { dir: dir.to_owned(), port };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        for ca in ["ca", "other-ca"] {
            let (subject, private, public) =
                (format!("/CN={ca}"), format!("{ca}.key"), format!("{ca}.pem"));
            let own = ["-subj", &subject, "-keyout", &private, "-out", &public];
            place.certificate(&[&key[..], &own].concat())?;
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
            place.certificate(&[&key[..], &own, &issued, &extensions].concat())?;
        }
        Ok(place)
    }

    /// A file of the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The same for a configuration.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn certificate(&self, args: &[&str]) -> Result<(), CollectorError> {
        Tool::new("openssl", "make a certificate")
            .args([
                "req",
                "-x509",
                "-not_before",
                "19700101000000Z",
                "-not_after",
                "20991231000000Z",
            ])
            .args(args)
            .in_dir(&self.dir)
            .run()?;
        Ok(())
    }

    /// Starts rsyslogd.
    ///
    /// # Errors
    /// [`CollectorError`] when it cannot be started: it belongs to the build root.
    pub fn start(&self, name: &str, configuration: &str) -> Result<Rsyslog, CollectorError> {
        let file = self.path(&format!("{name}.conf"));
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| CollectorError::File { path, source }
        };
        fs::write(&file, configuration).map_err(error(&file))?;
        let said = self.path(&format!("{name}.err"));
        let log = fs::File::create(&said).map_err(error(&said))?;
        let started = Command::new("rsyslogd")
            .args(["-n", "-f"])
            .arg(&file)
            .arg("-i")
            .arg(self.path(&format!("{name}.pid")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(error(&said))?)
            .stderr(log)
            .spawn();
        let system = |source| CollectorError::System { what: "start rsyslogd", source };
        Ok(Rsyslog(started.map_err(system)?))
    }

    /// A collector with this certificate, which writes what it gets as the device sent it.
    ///
    /// # Errors
    /// [`CollectorError`] when it cannot be started.
    pub fn collector(&self, certificate: &str) -> Result<Rsyslog, CollectorError> {
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
        // Lines of another's, of any bytes.
        let bytes = fs::read(self.path("collected")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
