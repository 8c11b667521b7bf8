//! Network namespaces of a test's own: a device between an operator and a stranger.

#![allow(dead_code)] // No test uses all of it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The device in the middle, and who it is linked to.
pub(crate) const DEVICE: &str = "device";
pub(crate) const OPERATOR: &str = "operator";
pub(crate) const STRANGER: &str = "stranger";

/// Each neighbour's link: the device has the addresses that end in 1, the neighbour in 2.
const LINKS: [(&str, u8); 2] = [(OPERATOR, 1), (STRANGER, 2)];

/// Where each namespace serves.
pub(crate) const PORT: u16 = 8000;

/// Namespaces; they end with the value.
pub(crate) struct Net {
    prefix: String,
    servers: Vec<Child>,
}

impl Net {
    /// Makes them, or says on stderr why the test is skipped: it needs root, iproute2 and
    /// nftables.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let prefix = format!("{test}{}", std::process::id());
        let net = Self { prefix, servers: Vec::new() };
        let made = Command::new("ip").args(["netns", "add", &net.name(DEVICE)]).output();
        let nft = Command::new("nft").arg("--version").output();
        let is_made = made.is_ok_and(|made| made.status.success());
        if !is_made || nft.is_err() {
            assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "no network namespaces");
            eprintln!("skipped: root, iproute2 and nftables are needed");
            return None;
        }
        for (neighbour, number) in LINKS {
            let (device, theirs) = (net.name(DEVICE), net.name(neighbour));
            run(&format!("ip netns add {theirs}"));
            run(&format!(
                "ip link add to-{neighbour} netns {device} type veth peer name uplink netns {theirs}"
            ));
            for (name, link, end) in
                [(device, format!("to-{neighbour}"), 1), (theirs, "uplink".into(), 2)]
            {
                let net = format!("nsenter --net=/run/netns/{name} ip");
                run(&format!("{net} addr add 10.99.{number}.{end}/24 dev {link}"));
                run(&format!("{net} addr add fd99:{number}::{end}/64 dev {link} nodad"));
                run(&format!("{net} link set dev {link} up"));
                run(&format!("{net} link set lo up"));
            }
        }
        Some(net)
    }

    pub(crate) fn name(&self, namespace: &str) -> String {
        format!("{}-{namespace}", self.prefix)
    }

    /// Something that is run in a namespace.
    pub(crate) fn command(&self, namespace: &str, program: &str) -> Command {
        // `ip netns exec` mounts, which cannot be where / is no mount.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name(namespace))).arg(program);
        command
    }

    /// Has each namespace answer at [`PORT`].
    pub(crate) fn serve(&mut self) {
        for namespace in [DEVICE, OPERATOR, STRANGER] {
            // Listens to both families.
            let server = "import socketserver as s, socket\n\
                 s.ThreadingTCPServer.address_family = socket.AF_INET6\n\
                 s.ThreadingTCPServer(('::', 8000), s.BaseRequestHandler).serve_forever()";
            let mut command = self.command(namespace, "python3");
            let child = command.args(["-c", server]).stderr(Stdio::null()).spawn().unwrap();
            self.servers.push(child);
            let end = Instant::now() + Duration::from_secs(20);
            while !self.reaches(namespace, "127.0.0.1") {
                assert!(Instant::now() < end, "{namespace} does not serve");
            }
        }
    }

    /// Whether a connection can be made, within a second.
    pub(crate) fn reaches(&self, from: &str, address: &str) -> bool {
        let connect = format!("import socket; socket.create_connection(('{address}', {PORT}), 1)");
        let mut command = self.command(from, "python3");
        command.args(["-c", &connect]).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Who reaches whom, in both families: operator to device, device to operator, stranger to
    /// device, device to stranger.
    pub(crate) fn paths(&self) -> [[bool; 2]; 4] {
        let both = |from, number, end| {
            [format!("10.99.{number}.{end}"), format!("fd99:{number}::{end}")]
                .map(|address| self.reaches(from, &address))
        };
        [both(OPERATOR, 1, 1), both(DEVICE, 1, 2), both(STRANGER, 2, 1), both(DEVICE, 2, 2)]
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.kill().ok();
            server.wait().ok();
        }
        for namespace in [DEVICE, OPERATOR, STRANGER] {
            Command::new("ip").args(["netns", "del", &self.name(namespace)]).output().ok();
        }
    }
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let ran = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
}
