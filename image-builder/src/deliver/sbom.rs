//! The bill of materials: everything in an image, in CycloneDX 1.5 (JSON).
//!
//! CycloneDX and not SPDX, because it has a place for patches (`pedigree`) and for package
//! URLs, by which scanners find Debian's security notices. No clock and no chance: the same
//! image has the same bill.

mod debian;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use pcr_measure::slots::Slot;
use serde_json::{Value, json};

use crate::component::provenance::Provenance;
use crate::component::{Component, Linked};
use crate::image::arm_image::ArmImage;
use crate::image::card::{Card, CardError};
use crate::image::ext4::uuid;
use crate::image::packages::Package;
use crate::image::tool::ToolError;
use crate::sources::lock::{Kind, Sha256Hex, Source};

/// The date of every build ([`crate::image::tool::SOURCE_DATE_EPOCH`]).
const TIMESTAMP: &str = "2026-01-01T00:00:00Z";

/// What purls name as the distribution of binary packages.
const DISTRO: &str = "debian-13";

/// Why there is no bill.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SbomError {
    /// A package cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Package {
        /// The package.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// dpkg failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The image cannot be read, or a file not written.
    #[error(transparent)]
    Card(#[from] CardError),
    /// A text is no JSON.
    #[error("{0}")]
    Json(serde_json::Error),
}

/// What an image was made of.
#[derive(Debug, Clone, Copy)]
pub struct Materials<'a> {
    /// The packages of the root file system.
    pub packages: &'a [Package],
    /// What was built, and from what.
    pub built: &'a [Provenance],
    /// What our programs were linked from, by their names.
    pub linked: &'a [(&'static str, Linked)],
    /// Where what packages say of themselves is kept.
    pub cache: &'a Path,
}

/// The bill of an image, in JSON. `name` is the image's, `sha256` its hash.
///
/// # Errors
/// If a package or the image cannot be read.
pub(super) fn of(
    card: &Card,
    name: &str,
    sha256: &str,
    materials: &Materials<'_>,
) -> Result<Vec<u8>, SbomError> {
    let mut bill = Bill::default();
    for package in materials.packages {
        bill.debian(package, &debian::facts(package, materials.cache)?);
    }
    for built in materials.built {
        bill.built(built);
    }
    for (program, linked) in materials.linked {
        bill.linked(program, linked);
    }
    bill.boot_files(card)?;
    let mut text =
        serde_json::to_vec_pretty(&bill.document(name, sha256)).map_err(SbomError::Json)?;
    text.push(b'\n');
    Ok(text)
}

/// A bill in the making: components by their reference, which sorts them.
#[derive(Debug, Default)]
struct Bill {
    components: BTreeMap<String, Value>,
    /// What the image consists of at once.
    direct: BTreeSet<String>,
    /// What each of our programs consists of.
    programs: BTreeMap<String, BTreeSet<String>>,
}

impl Bill {
    fn debian(&mut self, package: &Package, facts: &debian::Facts) {
        let purl = deb_purl(&package.name, &package.version, &facts.architecture);
        let (source, version) = &facts.source;
        let licences: Vec<Value> =
            facts.licences.iter().map(|name| json!({ "license": { "name": name } })).collect();
        let mut component = json!({
            "type": "library",
            "bom-ref": purl,
            "name": package.name,
            "version": package.version,
            "purl": purl,
            "properties": source_of(source, version),
        });
        if !licences.is_empty() {
            put(&mut component, "licenses", licences.into());
        }
        self.direct.insert(purl.clone());
        self.components.insert(purl, component);
    }

    fn built(&mut self, built: &Provenance) {
        for (index, source) in built.sources.iter().enumerate() {
            let component = built.component;
            let reference = format!("component:{component}/{}", source.name);
            let mut entry = json!({
                "type": kind(component),
                "bom-ref": reference,
                "name": source.name,
                "version": source.version,
                "description": component.about(),
                "purl": source_purl(source),
                "externalReferences": source.files.iter().map(|file| json!({
                    "type": "distribution",
                    "url": file.name,
                    "hashes": [hash(file.sha256.as_str())],
                })).collect::<Vec<_>>(),
            });
            // The series is for the first source.
            if index == 0 && !built.patches.is_empty() {
                let patches: Vec<Value> = built
                    .patches
                    .iter()
                    .map(|patch| json!({ "type": "unofficial", "diff": { "url": patch.path } }))
                    .collect();
                let hashes: Vec<Value> = built
                    .patches
                    .iter()
                    .map(|patch| {
                        let name = format!("msec-boot:sha256:{}", patch.path.display());
                        json!({ "name": name, "value": patch.sha256 })
                    })
                    .collect();
                put(&mut entry, "pedigree", json!({ "patches": patches }));
                put(&mut entry, "properties", hashes.into());
            }
            let owner = match is_linked(component) {
                true => self.programs.entry(UNSEAL.to_owned()).or_default(),
                false => &mut self.direct,
            };
            owner.insert(reference.clone());
            self.components.insert(reference, entry);
        }
    }

    fn linked(&mut self, program: &str, linked: &Linked) {
        let inside = self.programs.entry(program.to_owned()).or_default();
        for one in &linked.crates {
            let purl = format!("pkg:cargo/{}@{}", one.name, quoted(&one.version));
            let mut entry = json!({
                "type": if one.name == program { "application" } else { "library" },
                "bom-ref": purl,
                "name": one.name,
                "version": one.version,
                "purl": purl,
            });
            if let Some(licence) = &one.licence {
                put(&mut entry, "licenses", json!([{ "expression": licence }]));
            }
            if let Some(sha256) = &one.sha256 {
                // That of the packed source, which is what a registry hands out.
                put(&mut entry, "hashes", json!([hash(sha256)]));
            }
            let owner = if one.name == program { &mut self.direct } else { &mut *inside };
            owner.insert(purl.clone());
            self.components.insert(purl, entry);
        }
        for library in &linked.libraries {
            let purl = deb_purl(&library.name, &library.version, &library.architecture);
            inside.insert(purl.clone());
            self.components.entry(purl.clone()).or_insert_with(|| {
                json!({
                    "type": "library",
                    "bom-ref": purl,
                    "name": library.name,
                    "version": library.version,
                    "description": "linked statically",
                    "purl": purl,
                    "properties": source_of(&library.source, &library.source_version),
                })
            });
        }
    }

    /// The files on the boot partition, as they lie there.
    fn boot_files(&mut self, card: &Card) -> Result<(), CardError> {
        let (kind, _) = ArmImage::on(card)?;
        let mut names = vec![kind.file_on(card), Slot::A.fit(), Slot::A.manifest()];
        names.extend(kind.others());
        names.extend(kind.board_dtb());
        for name in names {
            let bytes = card.boot_file(name)?;
            let reference = format!("file:boot/{name}");
            let entry = json!({
                "type": "file",
                "bom-ref": reference,
                "name": format!("boot/{name}"),
                "hashes": [hash(Sha256Hex::of(&bytes).as_str())],
            });
            self.direct.insert(reference.clone());
            self.components.insert(reference, entry);
        }
        Ok(())
    }

    fn document(self, name: &str, sha256: &str) -> Value {
        let mut dependencies = vec![json!({ "ref": "image", "dependsOn": self.direct })];
        for (program, inside) in &self.programs {
            let own = format!("pkg:cargo/{program}@");
            if let Some(program) = self.components.keys().find(|name| name.starts_with(&own)) {
                dependencies.push(json!({ "ref": program, "dependsOn": inside }));
            }
        }
        json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "serialNumber": format!("urn:uuid:{}", uuid("bill of materials", sha256)),
            "version": 1,
            "metadata": {
                "timestamp": TIMESTAMP,
                "lifecycles": [{ "phase": "build" }],
                "tools": { "components": [{
                    "type": "application",
                    "name": env!("CARGO_PKG_NAME"),
                    "version": env!("CARGO_PKG_VERSION"),
                }] },
                "component": {
                    "type": "firmware",
                    "bom-ref": "image",
                    "name": name,
                    "hashes": [hash(sha256)],
                },
            },
            "components": self.components.into_values().collect::<Vec<_>>(),
            "dependencies": dependencies,
        })
    }
}

/// The source package of a binary one: what Debian's security notices name.
fn source_of(name: &str, version: &str) -> Value {
    json!([
        { "name": "msec-boot:source-package", "value": name },
        { "name": "msec-boot:source-version", "value": version },
    ])
}

fn put(component: &mut Value, field: &str, value: Value) {
    if let Some(fields) = component.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

fn hash(sha256: &str) -> Value {
    json!({ "alg": "SHA-256", "content": sha256 })
}

/// CycloneDX's kind of component.
fn kind(component: Component) -> &'static str {
    match component {
        Component::Kernel | Component::KernelKey => "operating-system",
        Component::Tss | Component::Devmapper | Component::Cryptsetup => "library",
        Component::Unseal | Component::ImaPolicy | Component::Qemu => "application",
        Component::UBoot
        | Component::UBootKey
        | Component::Optee
        | Component::TfA
        | Component::DeviceTree
        | Component::Firmware => "firmware",
    }
}

/// The program that holds what components deliver as libraries.
const UNSEAL: &str = "initramfs-unseal";

/// True for what ends inside of it.
fn is_linked(component: Component) -> bool {
    matches!(component, Component::Tss | Component::Devmapper | Component::Cryptsetup)
}

/// A package URL of Debian's (purl-spec, types/deb).
fn deb_purl(name: &str, version: &str, architecture: &str) -> String {
    format!(
        "pkg:deb/debian/{}@{}?arch={architecture}&distro={DISTRO}",
        quoted(name),
        quoted(version)
    )
}

fn source_purl(source: &Source) -> String {
    let architecture = match source.kind {
        Kind::DebSrc => "source",
        Kind::Deb => source.arch.as_deref().unwrap_or("all"),
    };
    let (name, version) = (quoted(&source.name), quoted(&source.version));
    format!("pkg:deb/debian/{name}@{version}?arch={architecture}")
}

/// Percent-encoded as purls are: letters, digits, `.-_~` and the colon stay (purl-spec,
/// "Character encoding").
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted += &format!("%{byte:02X}");
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::{Crate, Library};

    #[test]
    fn purls_are_as_the_specification_has_them() {
        assert_eq!(
            deb_purl("libstdc++6", "1:14.2.0+x~1", "arm64"),
            "pkg:deb/debian/libstdc%2B%2B6@1:14.2.0%2Bx~1?arch=arm64&distro=debian-13"
        );
    }

    #[test]
    fn what_is_linked_hangs_below_the_program() {
        let mut bill = Bill::default();
        let own = |name: &str, sha256: Option<&str>| Crate {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: Some("MIT".to_owned()),
            sha256: sha256.map(str::to_owned),
        };
        let library = Library {
            name: "libargon2-dev".to_owned(),
            version: "0~1".to_owned(),
            architecture: "arm64".to_owned(),
            source: "argon2".to_owned(),
            source_version: "0~1".to_owned(),
        };
        let digest = "ab".repeat(32);
        bill.linked(
            "initramfs-unseal",
            &Linked {
                crates: [own("initramfs-unseal", None), own("hex", Some(&digest))].into(),
                libraries: [library].into(),
            },
        );
        bill.linked(
            "ima-policy",
            &Linked {
                crates: [own("ima-policy", None), own("hex", Some(&digest))].into(),
                libraries: BTreeSet::new(),
            },
        );
        let document = bill.document("x", &digest);
        assert_eq!(document["components"].as_array().unwrap().len(), 4);
        assert_eq!(
            document["dependencies"],
            json!([
                { "ref": "image", "dependsOn": [
                    "pkg:cargo/ima-policy@1.0.0",
                    "pkg:cargo/initramfs-unseal@1.0.0",
                ] },
                { "ref": "pkg:cargo/ima-policy@1.0.0", "dependsOn": ["pkg:cargo/hex@1.0.0"] },
                { "ref": "pkg:cargo/initramfs-unseal@1.0.0", "dependsOn": [
                    "pkg:cargo/hex@1.0.0",
                    "pkg:deb/debian/libargon2-dev@0~1?arch=arm64&distro=debian-13",
                ] },
            ])
        );
        assert_eq!(document["components"][0]["hashes"][0]["content"], digest);
    }
}
