# A thin front: everything runs in a build root of its own (image-builder/buildroot),
# so the host needs root or sudo, mmdebstrap (installed when missing) and a Debian mirror.
# The cache: $MSEC_CACHE, or $XDG_CACHE_HOME/msec-boot, or ~/.cache/msec-boot.

ENTER := image-builder/buildroot/enter
BUILDER := cargo run --release --locked -p image-builder --
# What demonstration, tests and figures boot.
TINY := image-builder/recipes/rpi3-tiny.toml

# To try the project out and to test it, versions that the mirror has dropped are
# replaced by newer ones, with a word about it. `make image` wants the locked ones.
demo test test-long reproduce bench: export MSEC_TAKE_NEWER ?= 1

.PHONY: all image reproduce deb demo test test-long bench fuzz shell clean clean-cache help

all: image

RECIPE ?= image-builder/recipes/rpi3.toml
image: ## build the SD card image of a recipe into build/; RECIPE=image-builder/recipes/rpi3-spi.toml
	$(ENTER) $(BUILDER) build --recipe $(RECIPE)

reproduce: ## build everything twice, in two places, and compare it byte for byte
	$(ENTER) $(BUILDER) reproduce --recipe $(RECIPE)

deb: ## build the Debian package of initramfs-unseal into build/
	$(ENTER) $(BUILDER) deb

demo: ## build the images and boot them: provisioning, unlock, two attacks, a device that watches itself, a summary
	$(ENTER) $(BUILDER) demo

test: ## format, lints, unit tests, and the demo's journey as assertions
	$(ENTER) sh -euc 'cargo fmt --all --check; \
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings; \
	$(BUILDER) build --recipe $(TINY); $(BUILDER) build --only qemu; export MSEC_REQUIRE_TOOLS=1 TSS2_LOG=all+none; \
	cargo test --workspace --all-features --locked --no-fail-fast'

test-long: ## what takes an hour: 305 power cuts, 50 boots for IMA on each bus, a thousand SPI reads at each setting, OP-TEE for the lab, a Debian
	$(ENTER) sh -euc '$(BUILDER) build --recipe $(TINY); $(BUILDER) build --only qemu; cargo test --locked -p msec-tests -- --ignored --nocapture'

FORMAT ?= text
bench: ## speed of pcr-measure, and of ima-policy and the unlock beside their peers; FORMAT=json
	$(ENTER) cargo bench --locked -p pcr-measure --features cli --bench figures
	$(ENTER) cargo bench --locked -p ima-policy --features cli --bench figures --bench sign
	$(ENTER) sh -euc '$(BUILDER) build --recipe $(TINY) >&2; export TSS2_LOG=all+none; \
	cargo bench --locked -p msec-tests --bench unlock -- --format $(FORMAT)'

RUNS ?= 1000000
fuzz: ## random bytes for every parser of foreign bytes; RUNS=10000000 WHAT=pcr-measure/quote
	$(ENTER) tests/fuzz $(RUNS) $(WHAT)

shell: ## a shell in the build root
	$(ENTER)

clean: ## remove build/ and what cargo made; sources and components stay
	$(ENTER) rm -rf build /msec/cache/target

clean-cache: ## remove the whole cache: build root, sources, components, signing key
	image-builder/buildroot/clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
