//! `ima-policy watch` as a service.

/// What image-builder leaves in the root for it: `reference.json` and `ima.der`.
pub const KNOWN: &str = "/usr/lib/msec";

/// The unit's name.
pub const UNIT: &str = "ima-policy-watch.service";

/// It starts as soon as there is a log, and nothing waits for it: the kernel keeps what is
/// measured before. Root without capabilities reads the list, and talks to the log. It does
/// without `ProcSubset=pid`, which hides `/proc/modules`.
pub const TEXT: &str = "\
[Unit]
Description=Report what IMA measures and nobody knows
Documentation=man:ima-policy-watch(1)
DefaultDependencies=no
ConditionPathExists=/sys/kernel/security/ima/binary_runtime_measurements
Wants=systemd-journald-dev-log.socket
After=systemd-journald-dev-log.socket
Conflicts=shutdown.target
Before=shutdown.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=/usr/bin/ima-policy watch --known /usr/lib/msec
Restart=always
RestartSec=5
WatchdogSec=60
# It counts what it leaves out itself.
LogRateLimitIntervalSec=0
OOMScoreAdjust=-900
UMask=0077
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
PrivateTmp=disconnected
PrivateDevices=yes
PrivateNetwork=yes
PrivateIPC=yes
IPAddressDeny=any
RestrictAddressFamilies=AF_UNIX
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
";

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_unit_looks_where_the_root_has_it() {
        assert!(TEXT.contains(&format!("ima-policy watch --known {KNOWN}\n")));
    }

    /// systemd's own judgement: 0 is all that it knows, 100 nothing.
    #[test]
    fn the_unit_is_confined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(UNIT);
        let judged = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let ran = Command::new("systemd-analyze")
                .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
                .arg(&path)
                .output();
            match ran {
                Ok(ran) => Some((ran.status.success(), String::from_utf8(ran.stdout).unwrap())),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => panic!("{error}"),
            }
        };
        let Some((passed, told)) = judged(TEXT) else {
            assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "systemd-analyze");
            return;
        };
        assert!(passed, "{told}");
        let open =
            TEXT.replace("CapabilityBoundingSet=\n", "").replace("ProtectSystem=strict\n", "");
        assert!(!judged(&open).unwrap().0, "premise: it is judged");
    }
}
