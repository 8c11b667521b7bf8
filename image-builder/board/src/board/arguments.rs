//! QEMU's command line for a board.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use super::{BoardConfig, Clock, Disk, Firmware, Machine, Network, TpmLink};

/// Where a Raspberry Pi's device tree lies for TF-A. On hardware VideoCore loads it; TF-A
/// is built with `RPI3_PRELOADED_DTB_BASE` set to it.
const DTB_ADDRESS: u32 = 0x0100_0000;

/// The generic timer's frequency of a BCM2837 (its crystal: 19.2 MHz). QEMU's
/// default for the core makes guest time run 3.25 times too fast.
const TIMER_HZ: u32 = 19_200_000;

/// One thread for all four processors. With a thread each, those that wait in TF-A's
/// holding pen or in a spin table's loop (WFE) take the host's cores from the one that boots: power-on to
/// /init took 20 s and more on two cores, and takes 7 s so.
const ACCEL: &str = "tcg,thread=single";

/// The TPM's address on I2C bus 1, as the board's device tree has it.
const TPM_ADDRESS: u8 = 0x2e;

/// The main console's name in QEMU; the command line below has it twice.
pub(super) const CONSOLE: &str = "serial0";

/// The machine `virt` with a secure world, as far as its device tree tells it: QEMU's
/// options. Processors and memory are those of a Raspberry Pi 3.
pub const VIRT: [&str; 8] =
    ["-M", "virt,secure=on,gic-version=2", "-cpu", "cortex-a53", "-smp", "4", "-m", "1G"];

/// QEMU's command line. `sockets` holds the sockets it connects to; connections to `forwarded`
/// are the board's.
pub(super) fn arguments(
    config: &BoardConfig,
    sockets: &Path,
    forwarded: Option<SocketAddrV4>,
) -> Vec<String> {
    let socket = |name: &str| option(&sockets.join(name));
    let mut args: Vec<String> = match config.machine {
        Machine::Rpi3 { .. } => ["-M", "raspi3b"].map(str::to_owned).into(),
        Machine::Virt { .. } => VIRT.map(str::to_owned).into(),
    };
    args.extend(
        [
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
        .map(str::to_owned),
    );
    let mut add = |key: &str, value: String| args.extend([key.to_owned(), value]);
    add("-accel", ACCEL.to_owned());
    if config.clock == Clock::Instructions {
        // 2^0 ns each.
        add("-icount", "shift=0".to_owned());
    }
    add("-chardev", format!("socket,id=serial1,path={}", socket("serial1")));
    add("-serial", "chardev:serial1".to_owned());
    add("-chardev", format!("socket,id=qmp,path={}", socket("qmp")));
    add("-mon", "chardev=qmp,mode=control".to_owned());
    match &config.machine {
        Machine::Rpi3 { firmware, board_dtb } => {
            let load = |file: &Path, address: u32| {
                format!("loader,file={},addr={address:#x},force-raw=on", option(file))
            };
            add("-global", format!("cortex-a53-arm-cpu.cntfrq={TIMER_HZ}"));
            match firmware {
                Firmware::Armstub(image) => {
                    add("-device", load(image, 0));
                    add("-device", load(board_dtb, DTB_ADDRESS));
                }
                // QEMU does the VideoCore's part (hw/arm/raspi.c): a stub of its own in the
                // first page, the spin table, EL2, the device tree's address in x0. It
                // chooses that address, and makes that device tree fit the board, as the
                // VideoCore does.
                Firmware::Kernel(image) => {
                    add("-kernel", image.display().to_string());
                    add("-dtb", board_dtb.display().to_string());
                }
            }
        }
        Machine::Virt { flash } => {
            add("-bios", flash.display().to_string());
            add("-device", "virtio-rng-device".to_owned());
        }
    }
    if let Disk::Card(image) = &config.disk {
        match config.machine {
            Machine::Rpi3 { .. } => {
                add("-drive", format!("if=sd,format=raw,file={}", option(image)));
            }
            Machine::Virt { .. } => {
                add("-drive", format!("if=none,id=card,format=raw,file={}", option(image)));
                add("-device", "virtio-blk-device,drive=card".to_owned());
            }
        }
    }
    let leads_to = match (config.network, forwarded) {
        (Network::Forward(port), Some(forwarded)) => {
            Some(format!("hostfwd=tcp:{forwarded}-:{port}"))
        }
        (Network::Reach(port), _) => Some(reach(port)),
        (Network::Forward(_), None) | (Network::None, _) => None,
    };
    if let Some(leads_to) = leads_to {
        add("-netdev", format!("user,id=net0,restrict=on,{leads_to}"));
        let adapter = match config.machine {
            // The board's own is on USB as well (LAN9514), and QEMU has none of those.
            Machine::Rpi3 { .. } => "usb-net,netdev=net0",
            Machine::Virt { .. } => "virtio-net-device,netdev=net0",
        };
        add("-device", adapter.to_owned());
    }
    let device = match &config.tpm {
        TpmLink::None => return args,
        TpmLink::I2c(_) => {
            format!("tpm-tis-i2c,tpmdev=tpm0,address={TPM_ADDRESS:#x},bus=i2c-bus.1")
        }
        TpmLink::Spi(spi) => spi.device(),
        TpmLink::Mmio(_) => "tpm-tis-device,tpmdev=tpm0".to_owned(),
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

/// For each connection of the board's QEMU starts a program, whose input and output it is. (The
/// other way, `tcp:`, has one connection for all of the board's, made before it starts.) The two
/// halves end together.
fn reach(port: u16) -> String {
    let relay = format!(
        "exec 3<>/dev/tcp/{}/{port}; {{ cat <&3; kill $$; }} & cat >&3; kill $!",
        Ipv4Addr::LOCALHOST
    );
    format!("guestfwd=tcp:{}-cmd:bash -c '{relay}'", Network::REACHED)
}

#[cfg(test)]
mod tests {
    use super::super::{ChipSelect, SpiBehaviour, SpiTpm};
    use super::*;
    use crate::SoftTpm;

    fn config(disk: Disk, tpm: TpmLink) -> BoardConfig {
        let armstub = "/b/armstub8.bin".into();
        let board_dtb = "/b/board.dtb".into();
        BoardConfig {
            machine: Machine::Rpi3 { firmware: Firmware::Armstub(armstub), board_dtb },
            disk,
            tpm,
            clock: Clock::Host,
            network: Network::None,
            emulator: None,
            logs: "/l".into(),
            tap: None,
            secret: Default::default(),
        }
    }

    #[test]
    fn an_empty_board_has_neither_card_nor_tpm() {
        let text = arguments(&config(Disk::None, TpmLink::None), Path::new("/s"), None).join(" ");
        assert!(text.contains("-M raspi3b") && text.contains("cntfrq=19200000"), "{text}");
        assert!(text.contains("file=/b/armstub8.bin,addr=0x0"), "{text}");
        assert!(text.contains("file=/b/board.dtb,addr=0x1000000"), "{text}");
        assert!(!text.contains("-drive") && !text.contains("tpm"), "{text}");
        assert!(text.contains(" -S "), "the board waits until its consoles are read: {text}");
    }

    #[test]
    fn u_boot_alone_is_started_in_the_kernels_place() {
        let firmware = Firmware::Kernel("/b/kernel8.img".into());
        let machine = Machine::Rpi3 { firmware, board_dtb: "/b/board.dtb".into() };
        let config = BoardConfig { machine, ..config(Disk::None, TpmLink::None) };
        let text = arguments(&config, Path::new("/s"), None).join(" ");
        assert!(text.contains("-kernel /b/kernel8.img -dtb /b/board.dtb"), "{text}");
        assert!(!text.contains("loader"), "{text}");
    }

    #[test]
    fn time_follows_the_guests_work_only_where_that_is_asked_for() {
        let config = config(Disk::None, TpmLink::None);
        assert!(!arguments(&config, Path::new("/s"), None).contains(&"-icount".to_owned()));
        let config = BoardConfig { clock: Clock::Instructions, ..config };
        let text = arguments(&config, Path::new("/s"), None).join(" ");
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
        let text =
            arguments(&config(Disk::None, TpmLink::Spi(spi)), Path::new("/s"), None).join(" ");
        let expected = "-chardev socket,id=tpmch,path=/s/tpm -tpmdev emulator,id=tpm0,chardev=tpmch \
                        -device tpm-tis-spi,id=tpm,tpmdev=tpm0,bus=spi,cs=0,wait-states=2";
        assert!(text.ends_with(expected), "{text}");
        assert!(!text.contains("i2c"), "{text}");
    }

    #[test]
    fn a_virt_machine_has_flash_disk_and_a_tpm_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tpm2-00.permall"), [1]).unwrap();
        let tpm = TpmLink::Mmio(SoftTpm::open(dir.path()).unwrap());
        let machine = Machine::Virt { flash: "/b/flash.bin".into() };
        let config = BoardConfig { machine, ..config(Disk::Card("/d".into()), tpm) };
        let text = arguments(&config, Path::new("/s"), None).join(" ");
        for part in [
            "-M virt,secure=on,gic-version=2 -cpu cortex-a53 -smp 4 -m 1G",
            "-bios /b/flash.bin",
            "-drive if=none,id=card,format=raw,file=/d -device virtio-blk-device,drive=card",
            "-tpmdev emulator,id=tpm0,chardev=tpmch -device tpm-tis-device,tpmdev=tpm0",
            "-accel tcg,thread=single",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("raspi3b") && !text.contains("if=sd"), "{text}");
    }

    #[test]
    fn a_network_leads_to_one_port_and_nowhere_else() {
        let config = config(Disk::None, TpmLink::None);
        assert!(!arguments(&config, Path::new("/s"), None).contains(&"-netdev".to_owned()));
        let forwarded = "127.0.0.1:2222".parse().ok();
        let network = Network::Forward(22);
        let rpi3 = BoardConfig { network, ..config };
        let text = arguments(&rpi3, Path::new("/s"), forwarded).join(" ");
        let netdev = "-netdev user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22 -device ";
        assert!(text.ends_with(&format!("{netdev}usb-net,netdev=net0")), "{text}");
        let machine = Machine::Virt { flash: "/b/flash.bin".into() };
        let virt = BoardConfig { machine, ..rpi3 };
        let text = arguments(&virt, Path::new("/s"), forwarded).join(" ");
        assert!(text.ends_with(&format!("{netdev}virtio-net-device,netdev=net0")), "{text}");
    }

    #[test]
    fn a_board_reaches_one_port_and_nothing_else() {
        let config = config(Disk::None, TpmLink::None);
        let config = BoardConfig { network: Network::Reach(4000), ..config };
        let text = arguments(&config, Path::new("/s"), None).join(" ");
        let netdev = "user,id=net0,restrict=on,guestfwd=tcp:10.0.2.100:6514-cmd:bash -c";
        assert!(text.contains(netdev) && text.contains("/dev/tcp/127.0.0.1/4000;"), "{text}");
    }

    #[test]
    fn commas_in_a_path_stay_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tpm2-00.permall"), [1]).unwrap();
        let tpm = TpmLink::I2c(SoftTpm::open(dir.path()).unwrap());
        let card = Disk::Card("/a,readonly=on".into());
        let text = arguments(&config(card, tpm), Path::new("/s,x"), None).join(" ");
        assert!(text.contains("file=/a,,readonly=on"), "{text}");
        assert!(text.contains("path=/s,,x/tpm"), "{text}");
        assert!(text.contains("tpm-tis-i2c,tpmdev=tpm0,address=0x2e,bus=i2c-bus.1"), "{text}");
    }
}
