//! QEMU's command line for a board.

use std::path::Path;

use super::{BoardConfig, Clock, Disk, TpmLink};

/// Where the board's device tree lies at power-on. On hardware VideoCore loads it;
/// TF-A is built with `RPI3_PRELOADED_DTB_BASE` set to it.
const DTB_ADDRESS: u32 = 0x0100_0000;

/// The generic timer's frequency of a BCM2837 (its crystal: 19.2 MHz). QEMU's
/// default for the core makes guest time run 3.25 times too fast.
const TIMER_HZ: u32 = 19_200_000;

/// One thread for all four processors. With a thread each, those that wait in TF-A's
/// holding pen (WFE) take the host's cores from the one that boots: power-on to
/// /init took 20 s and more on two cores, and takes 7 s so.
const ACCEL: &str = "tcg,thread=single";

/// The TPM's address on I2C bus 1, as the board's device tree has it.
const TPM_ADDRESS: u8 = 0x2e;

/// The main console's name in QEMU; the command line below has it twice.
pub(super) const CONSOLE: &str = "serial0";

/// QEMU's command line. `sockets` holds the sockets it connects to.
pub(super) fn arguments(config: &BoardConfig, sockets: &Path) -> Vec<String> {
    let socket = |name: &str| option(&sockets.join(name));
    let mut args: Vec<String> = [
        "-M",
        "raspi3b",
        "-display",
        "none",
        "-no-reboot",
        // Nothing runs until every channel is open: see `Events::run`.
        "-S",
        "-nodefaults",
        "-chardev",
        "stdio,id=serial0,signal=off",
        "-serial",
        "chardev:serial0",
    ]
    .map(str::to_owned)
    .into();
    let mut add = |key: &str, value: String| args.extend([key.to_owned(), value]);
    add("-accel", ACCEL.to_owned());
    if config.clock == Clock::Instructions {
        // 2^0 ns each.
        add("-icount", "shift=0".to_owned());
    }
    add("-global", format!("cortex-a53-arm-cpu.cntfrq={TIMER_HZ}"));
    add("-chardev", format!("socket,id=serial1,path={}", socket("serial1")));
    add("-serial", "chardev:serial1".to_owned());
    add("-chardev", format!("socket,id=qmp,path={}", socket("qmp")));
    add("-mon", "chardev=qmp,mode=control".to_owned());
    add("-device", format!("loader,file={},addr=0x0,force-raw=on", option(&config.armstub)));
    add(
        "-device",
        format!("loader,file={},addr={DTB_ADDRESS:#x},force-raw=on", option(&config.board_dtb)),
    );
    if let Disk::Card(image) = &config.disk {
        add("-drive", format!("if=sd,format=raw,file={}", option(image)));
    }
    let device = match &config.tpm {
        TpmLink::None => return args,
        TpmLink::I2c(_) => {
            format!("tpm-tis-i2c,tpmdev=tpm0,address={TPM_ADDRESS:#x},bus=i2c-bus.1")
        }
        TpmLink::Spi(spi) => spi.device(),
    };
    add("-chardev", format!("socket,id=tpmch,path={}", socket("tpm")));
    add("-tpmdev", "emulator,id=tpm0,chardev=tpmch".to_owned());
    add("-device", device);
    args
}

/// A path as a value in a QEMU option: commas are doubled.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::super::{ChipSelect, SpiBehaviour, SpiTpm};
    use super::*;
    use crate::SoftTpm;

    fn config(disk: Disk, tpm: TpmLink) -> BoardConfig {
        BoardConfig {
            armstub: "/b/armstub8.bin".into(),
            board_dtb: "/b/board.dtb".into(),
            disk,
            tpm,
            clock: Clock::Host,
            logs: "/l".into(),
            tap: None,
            secret: Default::default(),
        }
    }

    #[test]
    fn an_empty_board_has_neither_card_nor_tpm() {
        let text = arguments(&config(Disk::None, TpmLink::None), Path::new("/s")).join(" ");
        assert!(text.contains("-M raspi3b") && text.contains("cntfrq=19200000"), "{text}");
        assert!(text.contains("file=/b/armstub8.bin,addr=0x0"), "{text}");
        assert!(text.contains("file=/b/board.dtb,addr=0x1000000"), "{text}");
        assert!(!text.contains("-drive") && !text.contains("tpm"), "{text}");
        assert!(text.contains(" -S "), "the board waits until its consoles are read: {text}");
    }

    #[test]
    fn time_follows_the_guests_work_only_where_that_is_asked_for() {
        let config = config(Disk::None, TpmLink::None);
        assert!(!arguments(&config, Path::new("/s")).contains(&"-icount".to_owned()));
        let config = BoardConfig { clock: Clock::Instructions, ..config };
        let text = arguments(&config, Path::new("/s")).join(" ");
        assert!(text.contains("-accel tcg,thread=single -icount shift=0 "), "{text}");
    }

    #[test]
    fn a_tpm_is_on_one_bus() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tpm2-00.permall"), [1]).unwrap();
        let spi = SpiTpm {
            tpm: SoftTpm::open(dir.path()).unwrap(),
            qemu: "/q".into(),
            chip_select: ChipSelect::Ce0,
            behaviour: SpiBehaviour { wait_states: 2, ..Default::default() },
        };
        let text = arguments(&config(Disk::None, TpmLink::Spi(spi)), Path::new("/s")).join(" ");
        let expected = "-chardev socket,id=tpmch,path=/s/tpm -tpmdev emulator,id=tpm0,chardev=tpmch \
                        -device tpm-tis-spi,id=tpm,tpmdev=tpm0,bus=spi,cs=0,wait-states=2";
        assert!(text.ends_with(expected), "{text}");
        assert!(!text.contains("i2c"), "{text}");
    }

    #[test]
    fn commas_in_a_path_stay_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tpm2-00.permall"), [1]).unwrap();
        let tpm = TpmLink::I2c(SoftTpm::open(dir.path()).unwrap());
        let card = Disk::Card("/a,readonly=on".into());
        let text = arguments(&config(card, tpm), Path::new("/s,x")).join(" ");
        assert!(text.contains("file=/a,,readonly=on"), "{text}");
        assert!(text.contains("path=/s,,x/tpm"), "{text}");
        assert!(text.contains("tpm-tis-i2c,tpmdev=tpm0,address=0x2e,bus=i2c-bus.1"), "{text}");
    }
}
