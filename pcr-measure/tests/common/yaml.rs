//! What tpm2_eventlog prints, line by line.

/// One event of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OracleEvent {
    pub(crate) pcr: u32,
    pub(crate) event_type: String,
    /// Bank and digest, in the order of the log.
    pub(crate) digests: Vec<(String, String)>,
    pub(crate) size: usize,
}

/// Events, and the PCR values they lead to: bank, PCR, value.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) events: Vec<OracleEvent>,
    pub(crate) pcrs: Vec<(String, u32, String)>,
}

/// Reads the lines that matter here and passes over the rest.
pub(crate) fn parse(text: &str) -> Oracle {
    let mut oracle = Oracle::default();
    let (mut in_pcrs, mut bank) = (false, String::new());
    for line in text.lines() {
        let trimmed = line.trim_start_matches([' ', '-']);
        let Some((key, value)) = trimmed.split_once(':') else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        if line == "pcrs:" {
            in_pcrs = true;
        } else if in_pcrs && value.is_empty() {
            bank = key.to_owned();
        } else if in_pcrs {
            let value = value.strip_prefix("0x").unwrap().to_owned();
            oracle.pcrs.push((bank.clone(), key.parse().unwrap(), value));
        } else if line.starts_with("  PCRIndex:") {
            // The first field of an event; its number stands in newer logs alone.
            let pcr = value.parse().unwrap();
            oracle.events.push(OracleEvent { pcr, ..OracleEvent::default() });
        } else if let Some(event) = oracle.events.last_mut() {
            // Fields of the event itself, not of what its data holds.
            let own = line.starts_with("  ") && !line.starts_with("   ");
            match key {
                "EventType" if own => event.event_type = value.to_owned(),
                "EventSize" if own => event.size = value.parse().unwrap(),
                "AlgorithmId" if own => bank = value.to_owned(),
                // The header event has one SHA-1 digest without a name.
                "Digest" if own => event.digests.push(("sha1".to_owned(), value.to_owned())),
                "Digest" if line.starts_with("    D") => {
                    event.digests.push((bank.clone(), value.to_owned()));
                }
                _ => {}
            }
        }
    }
    oracle
}
