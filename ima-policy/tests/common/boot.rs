//! A boot as the firmware's log has it, to be changed.

#![allow(dead_code)] // No test uses all of it.

/// One event, of the SHA-256 bank alone.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) pcr: u32,
    pub(crate) kind: u32,
    pub(crate) digest: [u8; 32],
    pub(crate) data: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct Boot {
    /// The specification ID event.
    head: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

/// TPM_ALG_SHA256.
const SHA256: [u8; 2] = [0x0b, 0];

impl Boot {
    pub(crate) fn of(log: &[u8]) -> Self {
        let number = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
        let mut at = 32 + number(28) as usize;
        let head = log[..at].to_vec();
        let mut events = Vec::new();
        while at < log.len() {
            assert_eq!((number(at + 8), &log[at + 12..at + 14]), (1, &SHA256[..]));
            let end = at + 50 + number(at + 46) as usize;
            events.push(Event {
                pcr: number(at),
                kind: number(at + 4),
                digest: log[at + 14..at + 46].try_into().unwrap(),
                data: log[at + 50..end].to_vec(),
            });
            at = end;
        }
        let boot = Self { head, events };
        assert_eq!(boot.log(), log);
        boot
    }

    pub(crate) fn log(&self) -> Vec<u8> {
        let mut log = self.head.clone();
        for Event { pcr, kind, digest, data } in &self.events {
            for number in [*pcr, *kind, 1] {
                log.extend(number.to_le_bytes());
            }
            log.extend(SHA256);
            log.extend(digest);
            log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            log.extend(data);
        }
        log
    }

    /// The event at this place of a PCR.
    pub(crate) fn event(&mut self, pcr: u32, place: usize) -> &mut Event {
        self.events.iter_mut().filter(|event| event.pcr == pcr).nth(place).unwrap()
    }
}
