//! `ima-policy` as services: `watch`, the agent of Keylime's, and a quarantine that lasts.

use crate::recipe::{Feature, Features, Keylime};

const WATCH: &str = "ima-policy-watch.service";
const WATCH_UNIT: &str = include_str!("../../../../ima-policy/systemd/ima-policy-watch.service");
const KEYLIME: &str = "ima-policy-keylime.service";
const KEYLIME_UNIT: &str =
    include_str!("../../../../ima-policy/systemd/ima-policy-keylime.service");
const KEYLIME_PATH: &str = "ima-policy-keylime.path";
const KEYLIME_PATH_UNIT: &str =
    include_str!("../../../../ima-policy/systemd/ima-policy-keylime.path");
const QUARANTINE: &str = "ima-policy-quarantine.service";
const QUARANTINE_UNIT: &str =
    include_str!("../../../../ima-policy/systemd/ima-policy-quarantine.service");

/// Where the agent's unit has its arguments from.
pub const KEYLIME_ARGUMENTS: &str = "etc/default/ima-policy-keylime";

/// Where the certificate of the verifier's CA lies.
pub const KEYLIME_CA: &str = "/etc/msec/keylime-ca.pem";

/// The units of these features: name, text, and the target that wants it, if one does.
///
/// Where systemd-timesyncd keeps the time, the agent is started once that is right.
pub fn units(
    features: &Features,
) -> impl Iterator<Item = (&'static str, &'static str, Option<&'static str>)> {
    const NETWORK: Option<&str> = Some("multi-user.target");
    const EARLY: Option<&str> = Some("sysinit.target");
    let (watch, attest) = (features.has(Feature::Watch), features.has(Feature::Attest));
    let waits = features.has(Feature::Time);
    let all = [
        (watch, WATCH, WATCH_UNIT, EARLY),
        (attest, QUARANTINE, QUARANTINE_UNIT, EARLY),
        (attest, KEYLIME, KEYLIME_UNIT, NETWORK.filter(|_| !waits)),
        (attest && waits, KEYLIME_PATH, KEYLIME_PATH_UNIT, NETWORK),
    ];
    all.into_iter().filter(|unit| unit.0).map(|(_, name, text, target)| (name, text, target))
}

/// The agent's arguments, for its unit. Nothing in them means something to systemd
/// ([`crate::recipe`] checks the names).
#[must_use]
pub fn arguments(keylime: &Keylime) -> String {
    let Keylime { verifier, registrar, quarantine, .. } = keylime;
    let mut text = format!(
        "# Made with the image: [keylime] in its recipe.\nARGS=--verifier https://{verifier} \
         --registrar http://{registrar} --ca {KEYLIME_CA}"
    );
    if !quarantine.is_empty() {
        text += " --on-refused quarantine";
    }
    for allowed in quarantine {
        text += &format!(" --allow {allowed}");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::process::Command;

    use super::*;
    use crate::image::integrity::KNOWN;
    use crate::recipe::Recipe;

    #[test]
    fn the_units_look_where_the_root_has_it() {
        assert!(WATCH_UNIT.contains(&format!("ima-policy watch --known {KNOWN}\n")));
        let file = format!("EnvironmentFile=/{KEYLIME_ARGUMENTS}\n");
        assert!(KEYLIME_UNIT.contains(&file));
        for unit in [KEYLIME_UNIT, KEYLIME_PATH_UNIT] {
            assert!(unit.contains(&format!("ConditionPathExists=/{KEYLIME_ARGUMENTS}\n")));
        }
    }

    /// What an administrator's `systemctl enable` does is what the image does.
    #[test]
    fn the_units_are_wanted_where_they_say() {
        for (name, text, target) in units(&Features::default()) {
            if let Some(target) = target {
                assert!(text.ends_with(&format!("[Install]\nWantedBy={target}\n")), "{name}");
            }
        }
        let untimed = Features::try_from(vec![Feature::Attest]).unwrap();
        let wanted: Vec<_> = units(&untimed).filter(|unit| unit.2.is_some()).collect();
        assert_eq!(wanted.iter().map(|unit| unit.0).collect::<Vec<_>>(), [QUARANTINE, KEYLIME]);
    }

    #[test]
    fn the_agent_gets_what_the_recipe_says() {
        let text = "name = \"d\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n[root]\n\
                    system = \"debian\"\n[keylime]\nverifier = \"v.example\"\nregistrar = \
                    \"[2001:db8::1]:99\"\nca = \"ca.pem\"\n";
        let said = |more: &str| {
            let recipe = Recipe::parse(&format!("{text}{more}"), "test").unwrap();
            arguments(&recipe.keylime.unwrap()).lines().next_back().unwrap().to_owned()
        };
        let plain = "ARGS=--verifier https://v.example:8881 --registrar http://[2001:db8::1]:99 \
                     --ca /etc/msec/keylime-ca.pem";
        assert_eq!(said(""), plain);
        let more = "quarantine = [\"192.0.2.1\", \"2001:db8::/64\"]\n";
        let kept = " --on-refused quarantine --allow 192.0.2.1/32 --allow 2001:db8::/64";
        assert_eq!(said(more), format!("{plain}{kept}"));
    }

    /// systemd's own judgement: 0 is all that it knows, 100 nothing.
    #[test]
    fn the_units_are_confined() {
        for (unit, text) in [(WATCH, WATCH_UNIT), (KEYLIME, KEYLIME_UNIT)] {
            is_confined(unit, text);
        }
    }

    fn is_confined(unit: &str, text: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(unit);
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
        let Some((passed, told)) = judged(text) else {
            assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "systemd-analyze");
            return;
        };
        assert!(passed, "{told}");
        let without =
            |line: &str| !["CapabilityB", "ProtectSys"].iter().any(|key| line.starts_with(key));
        let open: Vec<&str> = text.lines().filter(|line| without(line)).collect();
        assert!(!judged(&open.join("\n")).unwrap().0, "premise: it is judged");
    }
}
