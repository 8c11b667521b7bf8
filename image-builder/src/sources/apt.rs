//! apt, as a source of packages: commands out, answers in.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::SourceError;
use super::lock::{Kind, PinnedFile, Sha256Hex, Source};

/// A version that the mirror offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The version.
    pub version: String,
    /// The suite that has it.
    pub suite: String,
}

/// How apt calls the package: with its architecture, if it has one.
fn apt_name(source: &Source) -> String {
    match source.arch.as_deref() {
        None | Some("all") => source.name.clone(),
        Some(arch) => format!("{}:{arch}", source.name),
    }
}

/// Brings apt's lists up to date, once in a run of this program.
///
/// # Errors
/// apt's last words, when any list could not be fetched.
pub fn update() -> Result<(), String> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !*done {
        update_lists()?;
        *done = true;
    }
    Ok(())
}

fn update_lists() -> Result<(), String> {
    // Without this an unreachable mirror is a warning.
    output(Command::new("apt-get").args([
        "update",
        "--quiet=2",
        "--option=APT::Update::Error-Mode=any",
    ]))
    .map(drop)
    .map_err(|error| error.to_string())
}

/// All versions that the mirror offers of each of these packages, newest first.
///
/// # Errors
/// When apt cannot be asked.
pub fn offers(sources: &[Source]) -> Result<Vec<Vec<Offer>>, SourceError> {
    let names = sources.iter().map(apt_name);
    let answer = output(Command::new("apt-cache").arg("madison").args(names))?;
    Ok(sources.iter().map(|source| parse_madison(&answer, source)).collect())
}

/// As [`offers`], of one package.
///
/// # Errors
/// When apt cannot be asked.
pub fn offers_of(source: &Source) -> Result<Vec<Offer>, SourceError> {
    Ok(offers(std::slice::from_ref(source))?.pop().unwrap_or_default())
}

/// Reads `apt-cache madison`: `name | version | URI suite/component kind`.
fn parse_madison(answer: &str, source: &Source) -> Vec<Offer> {
    let mut offers: Vec<Offer> = answer
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('|').map(str::trim);
            let (name, version, place) = (fields.next()?, fields.next()?, fields.next()?);
            let is_source = place.ends_with(" Sources");
            let suite = place.split_whitespace().nth(1)?.split('/').next()?;
            (is_source == (source.kind == Kind::DebSrc)
                && name == if is_source { source.name.clone() } else { apt_name(source) })
            .then(|| Offer { version: version.to_owned(), suite: suite.to_owned() })
        })
        .collect();
    offers.dedup();
    offers
}

/// The newest version in the source's suite, its updates and security updates.
///
/// # Errors
/// When apt cannot be asked.
pub fn newest(source: &Source) -> Result<Option<String>, SourceError> {
    let mut best: Option<String> = None;
    // What came with a security update may since be in the suite itself.
    let suite = base_suite(&source.suite);
    for offer in offers_of(source)? {
        if base_suite(&offer.suite) != suite {
            continue;
        }
        let newer = match &best {
            None => true,
            Some(best) => Command::new("dpkg")
                .args(["--compare-versions", &offer.version, "gt", best])
                .status()
                .is_ok_and(|status| status.success()),
        };
        if newer {
            best = Some(offer.version);
        }
    }
    Ok(best)
}

/// The suite that updates and security updates are for.
fn base_suite(suite: &str) -> &str {
    suite.strip_suffix("-updates").or(suite.strip_suffix("-security")).unwrap_or(suite)
}

/// The files of the source in this version, as the mirror's lists name them.
///
/// # Errors
/// When apt cannot be asked, or its answer does not name them.
pub fn files(source: &Source, version: &str) -> Result<Vec<PinnedFile>, SourceError> {
    let mut command = Command::new("apt-cache");
    match source.kind {
        Kind::DebSrc => command.args(["showsrc", "--only-source", &source.name]),
        Kind::Deb => command.args(["show", &format!("{}={version}", apt_name(source))]),
    };
    parse_records(&output(&mut command)?, source.kind, version)
        .map_err(|reason| SourceError::Answer { name: source.name.clone(), reason })
}

/// Reads control records (Debian Policy 5.1) and returns the files of the one
/// with this version.
fn parse_records(answer: &str, kind: Kind, version: &str) -> Result<Vec<PinnedFile>, String> {
    let record = answer
        .split("\n\n")
        .find(|record| field(record, "Version") == Some(version))
        .ok_or_else(|| format!("no record of version {version}"))?;
    let required =
        |name| field(record, name).ok_or_else(|| format!("no field {name} in version {version}"));
    let size = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no size"));
    match kind {
        Kind::Deb => Ok(vec![PinnedFile {
            name: format!(
                "{}_{}_{}.deb",
                required("Package")?,
                version.replace(':', "%3a"),
                required("Architecture")?
            ),
            size: size(required("Size")?)?,
            sha256: Sha256Hex::try_from(required("SHA256")?.to_owned())?,
        }]),
        Kind::DebSrc => record
            .lines()
            .skip_while(|line| *line != "Checksums-Sha256:")
            .skip(1)
            .take_while(|line| line.starts_with(' '))
            .map(|line| {
                let mut words = line.split_whitespace();
                let (Some(sha256), Some(bytes), Some(name)) =
                    (words.next(), words.next(), words.next())
                else {
                    return Err(format!("`{line}` is no checksum"));
                };
                Ok(PinnedFile {
                    name: name.to_owned(),
                    size: size(bytes)?,
                    sha256: Sha256Hex::try_from(sha256.to_owned())?,
                })
            })
            .collect(),
    }
}

fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Starts the download of the locked version into `dir`.
///
/// # Errors
/// When apt cannot be started.
pub fn start_download(source: &Source, dir: &Path) -> Result<Child, SourceError> {
    let mut command = Command::new("apt-get");
    // We are root in a build root of our own; apt's unprivileged user could not
    // write into the cache.
    command.args(["--quiet=2", "--option=APT::Sandbox::User=root", "--option=Acquire::Retries=3"]);
    match source.kind {
        Kind::DebSrc => command
            .args(["source", "--download-only", "--only-source"])
            .arg(format!("{}={}", source.name, source.version)),
        Kind::Deb => {
            command.arg("download").arg(format!("{}={}", apt_name(source), source.version))
        }
    };
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| SourceError::Apt { command: "apt-get".into(), output: error.to_string() })
}

/// Runs a command and returns what it prints.
fn output(command: &mut Command) -> Result<String, SourceError> {
    let reason = match command.stdin(Stdio::null()).output() {
        Ok(result) if result.status.success() => {
            return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
        }
        Ok(result) => last_lines(&String::from_utf8_lossy(&result.stderr), 6),
        Err(error) => error.to_string(),
    };
    Err(SourceError::Apt { command: format!("{command:?}").replace('"', ""), output: reason })
}

/// The last lines of a text, where the reason usually stands.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, kind: Kind, arch: Option<&str>) -> Source {
        Source {
            name: name.into(),
            kind,
            suite: "trixie".into(),
            version: "1".into(),
            arch: arch.map(Into::into),
            files: Vec::new(),
        }
    }

    fn offer(version: &str, suite: &str) -> Offer {
        Offer { version: version.into(), suite: suite.into() }
    }

    const MADISON: &str = "\
cryptsetup |  2:2.7.5-1 | http://mirror/debian trixie/main amd64 Packages
cryptsetup |  2:2.7.5-2 | http://mirror/debian trixie/main Sources
cryptsetup |  2:2.8.8-1 | http://mirror/debian sid/main Sources
     linux |   6.12.8-1 | http://mirror/debian trixie/main Sources
broken line
";

    #[test]
    fn offers_are_those_of_the_package_and_its_kind() {
        let cases = [
            (
                source("cryptsetup", Kind::DebSrc, None),
                vec![offer("2:2.7.5-2", "trixie"), offer("2:2.8.8-1", "sid")],
            ),
            (source("cryptsetup", Kind::Deb, None), vec![offer("2:2.7.5-1", "trixie")]),
            (source("cryptsetup", Kind::Deb, Some("arm64")), vec![]),
            (source("gone", Kind::DebSrc, None), vec![]),
        ];
        for (source, expected) in cases {
            assert_eq!(parse_madison(MADISON, &source), expected, "{source:?}");
        }
        let foreign =
            "tool:arm64 | 1:1.37.0-6+b9 | http://mirror/debian trixie/main arm64 Packages\n";
        assert_eq!(
            parse_madison(foreign, &source("tool", Kind::Deb, Some("arm64"))),
            [offer("1:1.37.0-6+b9", "trixie")]
        );
    }

    const HASH: &str = "58a5f218191fe32900102760250741bed4e4f058ca915eb91f5f9a48a16562d7";

    #[test]
    fn updates_and_security_updates_belong_to_their_suite() {
        for suite in ["trixie", "trixie-updates", "trixie-security"] {
            assert_eq!(base_suite(suite), "trixie");
        }
        assert_eq!(base_suite("sid"), "sid");
    }

    #[test]
    fn files_of_a_source_record_are_those_with_sha256() {
        let answer = format!(
            "Package: a\nVersion: 1\nChecksums-Sha256:\n {HASH} 3 old.dsc\n\n\
             Package: a\nVersion: 2\nFiles:\n 00 7 md5.dsc\nChecksums-Sha256:\n {HASH} 3601 a_2.dsc\n \
             {HASH} 12 a_2.tar.gz\nHomepage: x\n {HASH} 1 no\n"
        );
        let files = parse_records(&answer, Kind::DebSrc, "2").unwrap();
        let names: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.size)).collect();
        assert_eq!(names, [("a_2.dsc", 3601), ("a_2.tar.gz", 12)]);
        assert!(parse_records(&answer, Kind::DebSrc, "3").is_err());
        assert!(parse_records(&answer.replace("3601", "x"), Kind::DebSrc, "2").is_err());
        assert!(parse_records(&answer.replace(HASH, "00"), Kind::DebSrc, "2").is_err());
    }

    #[test]
    fn the_file_of_a_binary_record_is_named_as_apt_names_it() {
        let answer = format!(
            "Package: b\nArchitecture: arm64\nVersion: 1:2-3\nSize: 847552\nSHA256: {HASH}\n"
        );
        let files = parse_records(&answer, Kind::Deb, "1:2-3").unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].name, "b_1%3a2-3_arm64.deb");
        assert!(parse_records(&answer.replace("SHA256", "MD5"), Kind::Deb, "1:2-3").is_err());
    }

    #[test]
    fn the_last_lines_are_kept() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("", 2), "");
    }
}
