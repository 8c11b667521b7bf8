//! The list itself: one SQLite file.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

use super::certificate::Endorsement;
use super::record::Record;

/// What tells our file from other SQLite files ("msec" in ASCII).
const APPLICATION: i32 = 0x6d73_6563;

/// The form of the tables.
const VERSION: i32 = 1;

const TABLES: &str = "
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    imported INTEGER NOT NULL,
    created INTEGER,
    image TEXT NOT NULL,
    board TEXT NOT NULL,
    model TEXT,
    serial TEXT,
    volume TEXT NOT NULL,
    ek_name TEXT,
    ak_name TEXT,
    endorsement TEXT NOT NULL,
    recipient TEXT,
    json BLOB NOT NULL
) STRICT;
CREATE INDEX records_volume ON records (volume);
";

const COLUMNS: &str = "id, imported, created, image, board, model, serial, volume, ek_name, \
                       ak_name, endorsement, recipient";

/// Why the list cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite failed.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// It is something else.
    #[error("{} is no list of devices", .0.display())]
    Foreign(PathBuf),
    /// A later version of this program made it.
    #[error("{} is of form {version}; this program knows {VERSION}: take a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its form.
        version: i32,
    },
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Added {
    /// A volume that was not in the list.
    New,
    /// The same record was there already; what is known of its certificate was renewed.
    Known,
    /// There is another record of the same volume, an interrupted provisioning's for
    /// instance. Both are kept, the newer one counts.
    Again,
}

/// A line of the list: the latest record of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its number in the list.
    pub id: i64,
    /// When it came into the list, in seconds since 1970.
    pub imported: i64,
    /// When the board was provisioned, where it had a clock.
    pub created: Option<i64>,
    /// Image that provisioned it.
    pub image: String,
    /// Kind of board.
    pub board: String,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// UUID of the LUKS2 volume.
    pub volume: String,
    /// Name of the endorsement key, in hexadecimal.
    pub ek_name: Option<String>,
    /// Name of the attestation key, in hexadecimal.
    pub ak_name: Option<String>,
    /// What its certificate was worth when the record came in.
    pub endorsement: String,
    /// Whom the recovery key is encrypted to.
    pub recipient: Option<String>,
}

/// The list.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
}

impl Store {
    /// Opens the list, or makes an empty one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if path != Path::new(":memory:") {
            // Recovery keys are encrypted in it; who has which device is nobody's business.
            // Should this fail, so does what follows, and says why.
            let _ = File::options().append(true).create(true).mode(0o600).open(path);
        }
        let mut connection = Connection::open(path).map_err(failed(path))?;
        let number = |connection: &Connection, name: &str| {
            connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0))
        };
        let foreign = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => StoreError::Foreign(path.to_owned()),
            _ => failed(path)(error),
        };
        let version = number(&connection, "user_version").map_err(foreign)?;
        let application = number(&connection, "application_id").map_err(foreign)?;
        let empty = number(&connection, "schema_version").map_err(foreign)? == 0;
        if !empty && application != APPLICATION {
            return Err(StoreError::Foreign(path.to_owned()));
        }
        if version > VERSION {
            return Err(StoreError::Newer { path: path.to_owned(), version });
        }
        if empty {
            let make = |connection: &mut Connection| {
                let change = connection.transaction()?;
                change.execute_batch(TABLES)?;
                change.pragma_update(None, "application_id", APPLICATION)?;
                change.pragma_update(None, "user_version", VERSION)?;
                change.commit()
            };
            make(&mut connection).map_err(failed(path))?;
        }
        Ok(Self { path: path.to_owned(), connection })
    }

    fn failed(&self) -> impl FnOnce(rusqlite::Error) -> StoreError + use<> {
        failed(&self.path)
    }

    /// Adds records, all or none of them.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn add(&mut self, records: &[(Record, Endorsement)]) -> Result<Vec<Added>, StoreError> {
        let failed = self.failed();
        let add = |connection: &mut Connection| {
            let change = connection.transaction()?;
            let added = records
                .iter()
                .map(|(record, endorsement)| add_one(&change, record, endorsement))
                .collect::<Result<Vec<_>, _>>()?;
            change.commit()?;
            Ok(added)
        };
        add(&mut self.connection).map_err(failed)
    }

    /// The latest record of each volume, in the order in which they came.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let text = format!(
            "SELECT {COLUMNS} FROM records WHERE id IN (SELECT max(id) FROM records GROUP BY volume) \
             ORDER BY id"
        );
        let all = || {
            self.connection.prepare(&text)?.query_map([], device)?.collect::<Result<Vec<_>, _>>()
        };
        all().map_err(self.failed())
    }

    /// The devices that a word stands for: a number in the list, a serial number, a
    /// volume's UUID, or how the Name of an endorsement key begins (eight digits or more).
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn find(&self, word: &str) -> Result<Vec<Device>, StoreError> {
        let mut devices = self.devices()?;
        let lower = word.to_lowercase();
        devices.retain(|device| {
            device.id.to_string() == word
                || device.serial.as_deref().is_some_and(|serial| serial.eq_ignore_ascii_case(word))
                || device.volume == lower
                || lower.len() >= 8
                    && device.ek_name.as_deref().is_some_and(|name| name.starts_with(&lower))
        });
        Ok(devices)
    }

    /// The record of a device, as it came.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn json(&self, id: i64) -> Result<Vec<u8>, StoreError> {
        let text = "SELECT json FROM records WHERE id = ?1";
        self.connection.query_row(text, [id], |row| row.get(0)).map_err(self.failed())
    }
}

fn failed(path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Sqlite { path, source }
}

fn add_one(
    connection: &Connection,
    record: &Record,
    endorsement: &Endorsement,
) -> Result<Added, rusqlite::Error> {
    let digest = record.digest();
    let known: Option<i64> = connection
        .query_row("SELECT id FROM records WHERE digest = ?1", [&digest], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        // Roots may have been at hand this time only.
        if *endorsement != Endorsement::Unchecked {
            let text = "UPDATE records SET endorsement = ?2 WHERE id = ?1";
            connection.execute(text, params![id, endorsement.to_string()])?;
        }
        return Ok(Added::Known);
    }
    let again: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM records WHERE volume = ?1)",
        [&record.volume],
        |row| row.get(0),
    )?;
    let name = |name: &Option<Vec<u8>>| name.as_ref().map(hex::encode);
    connection.execute(
        "INSERT INTO records (digest, imported, created, image, board, model, serial, volume, \
         ek_name, ak_name, endorsement, recipient, json) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            digest,
            seconds(SystemTime::now()),
            record.created.map(seconds),
            record.image,
            record.board,
            record.model,
            record.serial,
            record.volume,
            name(&record.ek_name),
            name(&record.ak_name),
            endorsement.to_string(),
            record.recipient,
            record.json,
        ],
    )?;
    Ok(if again { Added::Again } else { Added::New })
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

fn device(row: &Row<'_>) -> Result<Device, rusqlite::Error> {
    Ok(Device {
        id: row.get(0)?,
        imported: row.get(1)?,
        created: row.get(2)?,
        image: row.get(3)?,
        board: row.get(4)?,
        model: row.get(5)?,
        serial: row.get(6)?,
        volume: row.get(7)?,
        ek_name: row.get(8)?,
        ak_name: row.get(9)?,
        endorsement: row.get(10)?,
        recipient: row.get(11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{TestKey, bytes, record};
    use super::*;

    fn parsed(ek: &TestKey, serial: &str, volume: &str) -> (Record, Endorsement) {
        let record = Record::parse(&bytes(&record(ek, serial, volume))).unwrap();
        (record, Endorsement::Unchecked)
    }

    #[test]
    fn what_came_in_is_listed_once_with_its_latest_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.sqlite");
        let mut store = Store::open(&path).unwrap();
        let ek = TestKey::new();
        let (one, other) = (parsed(&ek, "1", "u-1"), parsed(&TestKey::new(), "2", "u-2"));
        let added = store.add(&[one.clone(), other, one.clone()]).unwrap();
        assert_eq!(added, [Added::New, Added::New, Added::Known]);
        // Another attestation key, the same volume: provisioning was cut and begun again.
        assert_eq!(store.add(&[parsed(&ek, "1b", "u-1")]).unwrap(), [Added::Again]);

        let store = Store::open(&path).unwrap();
        let serials: Vec<_> = store.devices().unwrap().into_iter().map(|d| d.serial).collect();
        assert_eq!(serials, [Some("2".to_owned()), Some("1b".to_owned())]);
        let found = store.find(&hex::encode(&ek.name)[..12]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].serial.as_deref(), Some("1b"));
        assert_eq!(store.find("u-2").unwrap()[0].id, 2);
        assert_eq!(store.find("2").unwrap().len(), 1, "by number and by serial, the same");
        assert!(store.find("1").unwrap().is_empty(), "its record was replaced");
        assert_eq!(store.json(1).unwrap(), one.0.json);
    }

    #[test]
    fn a_certificate_that_is_checked_later_is_noted() {
        let mut store = Store::open(Path::new(":memory:")).unwrap();
        let (record, unchecked) = parsed(&TestKey::new(), "1", "u-1");
        let said = |store: &Store| store.devices().unwrap().remove(0).endorsement;
        store.add(&[(record.clone(), unchecked.clone())]).unwrap();
        assert_eq!(said(&store), "not checked");
        let good = Endorsement::Good { root: "R".to_owned() };
        store.add(&[(record.clone(), good)]).unwrap();
        assert_eq!(said(&store), "good: R");
        store.add(&[(record, unchecked)]).unwrap();
        assert_eq!(said(&store), "good: R", "what is known is not forgotten");
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "this is a letter, and no list of anything at all").unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Foreign(_))));
        let path = dir.path().join("y");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Foreign(_))));
        let path = dir.path().join("z");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { version: 2, .. })));
    }

    #[test]
    fn a_new_list_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        drop(Store::open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // One that is there keeps what its owner gave it.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        drop(Store::open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn records_come_in_all_or_none() {
        let mut store = Store::open(Path::new(":memory:")).unwrap();
        store
            .connection
            .execute_batch(
                "CREATE TRIGGER t BEFORE INSERT ON records WHEN NEW.serial = '2' \
             BEGIN SELECT RAISE(ABORT, 'disk full'); END",
            )
            .unwrap();
        let (one, other) = (parsed(&TestKey::new(), "1", "a"), parsed(&TestKey::new(), "2", "b"));
        store.add(&[one, other]).unwrap_err();
        assert!(store.devices().unwrap().is_empty());
    }
}
