//! The log of a device, sent to a collector by rsyslog: what the recipe's `[logging]` becomes;
//! and the log of a busybox that has rsyslog.

use crate::recipe::Logging;

/// Where rsyslog reads it.
pub const CONFIGURATION: &str = "etc/rsyslog.d/20-msec-remote.conf";

/// Where the certificate of the collector's CA lies.
pub const CA: &str = "/etc/msec/logging-ca.pem";

/// Where messages wait that the collector has not got (rsyslog's own directory in Debian).
pub const SPOOL: &str = "/var/spool/rsyslog";

/// The log of a busybox userland that has rsyslog: what Debian's own configuration does is for
/// a disk with a logrotate.
pub const OF_BUSYBOX: (&str, &str) = (
    "etc/rsyslog.conf",
    "\
# Made with the image: the log in /var/log/syslog, 256 KiB at most and once as much before it.
module(load=\"imuxsock\")
module(load=\"imklog\")
global(workDirectory=\"/var/spool/rsyslog\")
include(file=\"/etc/rsyslog.d/*.conf\" mode=\"optional\")
action(
    type=\"omfile\" file=\"/var/log/syslog\" fileCreateMode=\"0640\"
    rotation.sizeLimit=\"262144\" rotation.sizeLimitCommand=\"/usr/bin/rotate-log\"
)
",
);

/// What rsyslog calls when that is full.
pub const ROTATE: (&str, &str) =
    ("usr/bin/rotate-log", "#!/bin/sh\nexec mv -f /var/log/syslog /var/log/syslog.1\n");

/// What a root gets for `[logging]`: paths and texts.
#[must_use]
pub fn files(logging: &Logging) -> [(&'static str, String); 2] {
    [(CONFIGURATION, configuration(logging)), (CA.trim_start_matches('/'), logging.ca_text.clone())]
}

/// rsyslog's configuration. Names have no letter that means something there
/// ([`crate::recipe`] checks them).
///
/// One worker on a queue that is a file keeps the order, over a restart too; rsyslog's queues in
/// memory that go to the disk when they are full do not: they send what came last first. At the
/// bound the newest are dropped, not waited
/// with: whoever logs would wait as well, and the local log has them all the same.
///
/// Syslog over TLS has no acknowledgements, and rsyslog does not read from such a connection: it
/// learns of its end by sending (github.com/rsyslog/rsyslog/issues/1503). What it sends until
/// then is lost to the collector; the batches are kept small for that. The ways round it are
/// worse: `rebindInterval` logs, and so sends, seven lines more for each line, and librelp's
/// OpenSSL takes any certificate where the device has none itself.
#[must_use]
pub fn configuration(logging: &Logging) -> String {
    let (host, port, peer) = (logging.server.host(), logging.server.port(), logging.peer());
    format!(
        "\
# Made with the image: [logging] in its recipe. Everything goes to the collector as well, in the
# form of RFC 5424 over TLS (RFC 5425). What it has not got waits here, 32 MiB at most; beyond
# that the newest messages stay in the local log alone.
action(
    type=\"omfwd\" name=\"msec-remote\"
    target=\"{host}\" port=\"{port}\" protocol=\"tcp\" tcp_framing=\"octet-counted\"
    template=\"RSYSLOG_SyslogProtocol23Format\"
    streamDriver=\"ossl\" streamDriverMode=\"1\" streamDriverAuthMode=\"x509/name\"
    streamDriverPermittedPeers=\"{peer}\" streamDriver.CAFile=\"{CA}\"
    streamDriver.permitExpiredCerts=\"off\"
    keepAlive=\"on\" keepAlive.time=\"60\" keepAlive.interval=\"10\" keepAlive.probes=\"3\"
    action.resumeRetryCount=\"-1\" action.resumeInterval=\"5\" action.resumeIntervalMax=\"60\"
    queue.type=\"Disk\" queue.filename=\"msec-remote\" queue.spoolDirectory=\"{SPOOL}\"
    queue.maxDiskSpace=\"32m\" queue.maxFileSize=\"1m\" queue.checkpointInterval=\"1\"
    queue.dequeueBatchSize=\"8\" queue.workerThreads=\"1\" queue.timeoutEnqueue=\"0\"
    queue.saveOnShutdown=\"on\"
)
"
    )
}
