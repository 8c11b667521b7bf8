//! Any text as a policy: no panic; a rule that is read comes back from its own text.

#![no_main]

use ima_policy::policy::{self, Kernel, Rule};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let kernel = Kernel::new("6.12").unwrap();
    match policy::parse(text) {
        Ok(rules) => {
            for (_, rule) in rules {
                assert_eq!(Rule::parse(&rule.to_string()).as_ref(), Ok(&rule));
                let _ = kernel.takes(&rule);
            }
        }
        Err(errors) => assert!(!errors.is_empty()),
    }
});
