//! What starts a script: its first line (Linux, fs/binfmt_script.c).

/// Bytes of the first line that the kernel looks at (`BINPRM_BUF_SIZE`).
const LINE: usize = 256;

/// An interpreter, and the one word that it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shebang {
    /// The program's path.
    pub interpreter: String,
    /// Everything behind it, as one argument.
    pub argument: Option<String>,
}

impl Shebang {
    /// Reads a file's first line; `None` where it is no script.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let line = bytes.strip_prefix(b"#!")?;
        let line = line.get(..LINE - 2).unwrap_or(line);
        let end = line.iter().position(|byte| matches!(byte, b'\n' | 0)).unwrap_or(line.len());
        let line = std::str::from_utf8(line.get(..end)?).ok()?;
        let line = line.trim_matches([' ', '\t']);
        let (interpreter, argument) = match line.split_once([' ', '\t']) {
            Some((interpreter, argument)) => {
                (interpreter, Some(argument.trim_matches([' ', '\t'])))
            }
            None => (line, None),
        };
        let argument = argument.filter(|text| !text.is_empty()).map(str::to_owned);
        let interpreter = interpreter.to_owned();
        (!interpreter.is_empty()).then_some(Self { interpreter, argument })
    }

    /// The program that `env` looks up in the search path, where that is the interpreter.
    #[must_use]
    pub fn through_env(&self) -> Option<&str> {
        let name = self.interpreter.rsplit('/').next()?;
        let argument = self.argument.as_deref().filter(|_| name == "env")?;
        // `env -S name args` splits; assignments stand before the program.
        let mut words = argument.split_ascii_whitespace();
        words.find(|word| !word.starts_with('-') && !word.contains('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_interpreter() {
        let parse = |text: &str| Shebang::parse(text.as_bytes());
        let said = |text: &str| {
            let found = parse(text).unwrap();
            (found.interpreter, found.argument)
        };
        assert_eq!(said("#!/bin/sh\nx"), ("/bin/sh".into(), None));
        assert_eq!(said("#! /bin/sh -e \nx"), ("/bin/sh".into(), Some("-e".into())));
        assert_eq!(said("#!/bin/sh"), ("/bin/sh".into(), None));
        assert_eq!(said("#!/a\tb c\n"), ("/a".into(), Some("b c".into())));
        for none in ["", "#", "#!", "#!\n", "#! \n/bin/sh", " #!/bin/sh"] {
            assert_eq!(parse(none), None, "{none:?}");
        }
        let long = format!("#!/{}\n", "a".repeat(1000));
        assert_eq!(said(&long).0.len(), LINE - 2);
        assert_eq!(Shebang::parse(b"#!/bin/\xff\n"), None);
    }

    #[test]
    fn env_names_another_program() {
        let through = |text: &str| {
            let found = Shebang::parse(text.as_bytes()).unwrap();
            found.through_env().map(str::to_owned)
        };
        assert_eq!(through("#!/usr/bin/env python3\n").as_deref(), Some("python3"));
        assert_eq!(through("#!/usr/bin/env -S A=1 perl -w\n").as_deref(), Some("perl"));
        assert_eq!(through("#!/usr/bin/env\n"), None);
        assert_eq!(through("#!/bin/sh -e\n"), None);
    }
}
