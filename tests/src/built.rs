//! What the build left: image, artifacts, signing key.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use ima_policy::reference::Reference;
use image_builder::{
    artifacts::{Artifacts, KeyDir},
    cache::Cache,
    component::{self, Component, engine, plan::Context, plan::Plan},
    emu::card::Card,
    image::{
        self, initramfs,
        packages::{self, Package},
        root::Origin,
        tamper::{Signing, Tamper, variant},
    },
    keys::{self, Role},
    progress::Progress,
    recipe::{Binding, Recipe, Target},
    sources::{
        newer::{self, WhenGone},
        store::Store,
    },
};

/// The checkout.
#[must_use]
pub fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the checkout")
}

/// The demonstration's recipe.
fn recipe_path() -> PathBuf {
    tree().join("image-builder/recipes/rpi3-tiny.toml")
}

/// A new, empty directory of this name for a test's device and logs. A second run in
/// the same checkout waits for the first one.
#[must_use]
pub fn scratch(name: &str) -> PathBuf {
    static LOCK: OnceLock<fs::File> = OnceLock::new();
    let all = tree().join("build/test");
    LOCK.get_or_init(|| {
        fs::create_dir_all(&all).expect("build/test can be made");
        let lock = fs::File::create(all.join(".lock")).expect("build/test is ours");
        lock.lock().expect("the lock on build/test");
        lock
    });
    let dir = all.join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).expect("an earlier run's directory can be removed");
    }
    fs::create_dir_all(&dir).expect("the test's directory can be made");
    dir
}

/// What the build left.
#[derive(Debug)]
pub struct Built {
    /// A copy of the image. Copy it again to boot it.
    pub image: Card,
    /// Its recipe.
    pub recipe: Recipe,
    artifacts: Artifacts,
    plan: Plan,
    context: Context,
}

/// What the build left, looked up once.
#[must_use]
pub fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cache = Cache::from_env().expect("the cache");
        let context = Context {
            lock: newer::in_force(
                &tree().join("image-builder/sources.lock"),
                &Store::new(&cache),
                WhenGone::from_env(),
            )
            .expect("the lock file"),
            signing_key: component::ensure_signing_key(&cache, None).expect("the signing key"),
            tools: Context::tools().expect("the tools of the build root"),
            target: Target::default(),
            cache,
            tree: tree().to_owned(),
        };
        keys::ensure(&context.signing_key, Role::Ima, false).expect("the key for files");
        let plan = Plan::new(&context, &Component::ALL).expect("the components' plan");
        let artifacts = component::artifacts(&plan, &context.target, context.signing_key.clone())
            .expect("everything is built: run `make image RECIPE=image-builder/recipes/rpi3-tiny.toml` first");
        // Its key follows the sources: an older image would test an older program.
        let current = artifacts.unseal.exists();
        assert!(
            current,
            "initramfs-unseal has changed since the image was built: run `make image` for it"
        );
        let recipe = Recipe::load(&recipe_path()).expect("the recipe");
        let image = tree().join("build").join(format!("{}.img", recipe.name));
        // A copy: somebody may build again while the tests run.
        let image = Card::open(&image)
            .and_then(|card| card.copy_to(&scratch("image").join("original.img")))
            .expect("the image: run `make image RECIPE=image-builder/recipes/rpi3-tiny.toml` first");
        Built { image, recipe, artifacts, plan, context }
    })
}

impl Built {
    /// What a healthy system of the image may measure.
    ///
    /// # Panics
    /// When it is not beside the image.
    #[must_use]
    pub fn reference(&self) -> Reference {
        let path = tree().join("build").join(format!("{}.reference.json", self.recipe.name));
        Reference::from_json(&fs::read(path).expect("the reference")).expect("a reference")
    }

    /// Where a component lies.
    #[must_use]
    pub fn component(&self, component: Component) -> PathBuf {
        self.plan.dir(component)
    }

    /// Where a component for another target lies, which is built if need be.
    ///
    /// # Panics
    /// When it cannot be built.
    #[must_use]
    pub fn component_for(&self, target: Target, component: Component) -> PathBuf {
        let context = Context { target, ..self.context.clone() };
        let plan = engine::build(&context, &[component], &Progress::hidden());
        plan.expect("the component").dir(component)
    }

    /// The emulator with a TPM on SPI.
    ///
    /// # Panics
    /// When it is not built.
    #[must_use]
    pub fn emulator(&self) -> PathBuf {
        let program = self.component(Component::Qemu).join(component::QEMU);
        assert!(program.exists(), "the emulator: run `image-builder build --only qemu` first");
        program
    }

    /// The keys that the image was made with.
    #[must_use]
    pub fn keys(&self) -> &KeyDir {
        &self.context.signing_key
    }

    /// Where what was fetched and made is kept.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.context.cache
    }

    /// A variant of an image, in `dir`.
    #[must_use]
    pub fn variant(&self, of: &Card, tamper: &Tamper, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(format!("{name}.img"));
        variant(of.path(), tamper, &Signing::from(&self.artifacts), &path).expect("a variant");
        path
    }

    /// The update bundle of an image, at `path`, without its firmware.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn bundle(&self, of: &Card, path: &Path) -> PathBuf {
        self.bundle_with(of, false, path)
    }

    /// The same, with its firmware or without.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn bundle_with(&self, of: &Card, firmware: bool, path: &Path) -> PathBuf {
        let key = keys::signing(&self.context.signing_key, Role::Update).expect("the key");
        image::bundle::make(of.path(), firmware, &key, path).expect("a bundle");
        path.to_owned()
    }

    /// A variant whose boot files a board can be started from.
    #[must_use]
    pub fn card(&self, tamper: &Tamper, dir: &Path, name: &str) -> Card {
        Card::open(&self.variant(&self.image, tamper, dir, name)).expect("a bootable variant")
    }

    /// The configuration of the image's initramfs with one value changed, as a
    /// change to the initramfs.
    #[must_use]
    pub fn configuration(&self, key: &str, value: serde_json::Value) -> Tamper {
        let mut config = initramfs::config(&self.recipe);
        config[key] = value;
        Tamper::Initramfs {
            path: "etc/initramfs-unseal.json".to_owned(),
            content: config.to_string().into_bytes(),
        }
    }

    /// A smaller image from the same artifacts: a root of 16 MiB with busybox alone,
    /// for tests that provision more than once.
    #[must_use]
    pub fn small_image(&self, dir: &Path) -> Card {
        self.small_image_with(dir, |_| ())
    }

    /// The same after a change to its recipe. A change of the TPM's place or of the
    /// firmware makes other device trees and another U-Boot, which are built if need be.
    #[must_use]
    pub fn small_image_with(&self, dir: &Path, change: impl FnOnce(&mut toml::Table)) -> Card {
        self.small_image_of(dir, self.keys(), Vec::new(), change)
    }

    /// The same, made with these keys, and with packages beside its own.
    ///
    /// # Panics
    /// When it cannot be built.
    #[must_use]
    pub fn small_image_of(
        &self,
        dir: &Path,
        keys: &KeyDir,
        more: Vec<Package>,
        change: impl FnOnce(&mut toml::Table),
    ) -> Card {
        let text = fs::read_to_string(recipe_path()).expect("the recipe");
        let mut table: toml::Table = text.parse().expect("TOML");
        let disk = [("size_mib", 128), ("boot_mib", 34), ("reserve_mib", 4), ("root_mib", 16)];
        let disk: toml::Table =
            disk.into_iter().map(|(key, size)| (key.to_owned(), toml::Value::from(size))).collect();
        table.insert("disk".to_owned(), disk.into());
        let packages = toml::Value::from(vec!["busybox-static"]);
        table["root"].as_table_mut().expect("[root]").insert("packages".to_owned(), packages);
        change(&mut table);
        self.assemble(&table, &recipe_path(), &["busybox-static"], more, keys, dir)
    }

    /// An image of another recipe that the project ships, after a change to it, with
    /// packages beside its own. Components that are missing are built.
    #[must_use]
    pub fn image_of(
        &self,
        name: &str,
        change: impl FnOnce(&mut toml::Table),
        more: Vec<Package>,
        dir: &Path,
    ) -> Card {
        let path = tree().join("image-builder/recipes").join(name);
        let mut table: toml::Table =
            fs::read_to_string(&path).expect("the recipe").parse().expect("TOML");
        change(&mut table);
        self.assemble(&table, &path, &[], more, self.keys(), dir)
    }

    /// Builds an image of the recipe `table`, in the place of the one at `path`, from the
    /// packages that are locked there: these of them, or all.
    fn assemble(
        &self,
        table: &toml::Table,
        path: &Path,
        names: &[&str],
        more: Vec<Package>,
        keys: &KeyDir,
        dir: &Path,
    ) -> Card {
        // From a file: what a recipe names lies beside it, or has a whole path.
        let file = dir.join("recipe.toml");
        fs::write(&file, table.to_string()).expect("the test's recipe");
        let recipe = Recipe::load(&file).expect("a recipe");
        if let Binding::Signed(_) = recipe.tpm.binding {
            component::ensure_policy_key(keys, false).expect("a policy key");
        }
        keys::ensure(keys, Role::Update, false).expect("an update key");
        let store = Store::new(&self.context.cache);
        let gone = WhenGone::from_env();
        let hidden = Progress::hidden();
        let locked = Recipe::load(path).expect("the recipe");
        let all = packages::obtain(&locked, path, &store, gone, &hidden).expect("the packages");
        let mut own: Vec<_> = all
            .into_iter()
            .filter(|p| names.is_empty() || names.contains(&p.name.as_str()))
            .collect();
        own.extend(more);
        let context = Context {
            target: Target::of(&recipe),
            signing_key: keys.clone(),
            ..self.context.clone()
        };
        let plan = engine::build(&context, &Component::of_image(&context.target), &hidden)
            .expect("the components");
        let artifacts = component::artifacts(&plan, &context.target, context.signing_key.clone());
        let artifacts = artifacts.expect("the artifacts");
        let origin = Origin::of(&recipe, &context, own, &hidden).expect("the root");
        let image = image::assemble(&recipe, &artifacts, &origin, dir, &hidden);
        Card::open(&image.expect("an image").path).expect("an image")
    }
}
