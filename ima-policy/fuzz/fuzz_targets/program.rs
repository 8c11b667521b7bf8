//! Any bytes as a program or a script: no panic, and no name that does not lie in it.

#![no_main]

use ima_policy::closure::{Object, Shebang};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let lies_in = |name: &str| {
        name.is_empty() || bytes.windows(name.len()).any(|window| window == name.as_bytes())
    };
    if let Some(shebang) = Shebang::parse(bytes) {
        assert!(lies_in(&shebang.interpreter));
        assert!(shebang.through_env().is_none_or(lies_in));
    }
    if let Ok(object) = Object::parse(bytes) {
        assert!(object.needed.iter().all(|name| lies_in(name)));
        assert!(object.interpreter.as_deref().is_none_or(lies_in));
    }
});
