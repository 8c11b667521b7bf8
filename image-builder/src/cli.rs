//! The command line.
//!
//! Exit codes: 0 as asked, 1 a negative answer, 2 could not be done, 64 usage.

mod build;
mod check;
mod components;
mod deb;
mod demo;
mod devices;
mod docs;
mod flash;
mod keys;
mod reproduce;
mod setting;
mod sources;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand, ValueEnum};

use crate::emu::run::Outcome;
use crate::image;

/// BSD's sysexits.h, EX_USAGE.
const USAGE: u8 = 64;

/// Builds, runs and checks measured-boot SD card images.
#[derive(Debug, Parser)]
#[command(name = "image-builder", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of all commands.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// The checkout; found from the current directory when not given
    #[arg(long, global = true, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Directory with the keys to sign with (fit.key, fit.crt, ...: image-builder keys); one in
    /// the cache when not given
    #[arg(long, global = true, value_name = "DIR")]
    signing_key: Option<PathBuf>,
    /// Take newer versions of sources and packages where the mirror has dropped the locked ones
    /// (also MSEC_TAKE_NEWER=1)
    #[arg(long, global = true)]
    take_newer: bool,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the image of a recipe, or some of its components
    Build(build::BuildArgs),
    Check(check::CheckArgs),
    /// Build the Debian package of initramfs-unseal, for other initramfs tools
    Deb(deb::DebArgs),
    /// Build the image and take it through provisioning, unlock and two attacks
    Demo(build::ImageArgs),
    Run(crate::emu::run::RunArgs),
    Verify(image::cli::VerifyArgs),
    Inspect(image::cli::InspectArgs),
    Diff(image::cli::DiffArgs),
    Flash(flash::FlashArgs),
    Bundle(image::cli::BundleArgs),
    Tamper(image::cli::TamperArgs),
    /// Pin the packages of a recipe
    #[command(subcommand)]
    Recipe(image::cli::RecipeCommand),
    /// Keep the list of a fleet's devices
    Devices(devices::DevicesArgs),
    /// Make, list and use the keys that sign
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Build everything twice and compare it byte for byte
    Reproduce(reproduce::ReproduceArgs),
    /// List the components: keys, what is cached, sizes
    Components,
    /// Fetch, pin and show the sources
    #[command(subcommand)]
    Sources(sources::SourcesCommand),
    /// Print the manual page, or completions for a shell
    #[command(hide = true)]
    Docs(docs::DocsArgs),
}

/// Runs the command that the process arguments ask for.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // What cannot be printed cannot be reported either.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("image-builder: {}", setting::for_host(&told(&error)));
            ExitCode::from(2)
        }
    }
}

/// An error with its causes. A cause that the text before it tells already is not
/// told again: errors of libraries hold theirs in their own sentence.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let json = cli.global.format == Format::Json;
    match &cli.command {
        Command::Build(args) => build::run(&cli.global, args),
        Command::Check(args) => check::run(&cli.global, args),
        Command::Deb(args) => deb::run(&cli.global, args),
        Command::Demo(args) => demo::run(&cli.global, args),
        Command::Run(args) => {
            let tampers = args.append_tamper.is_some();
            let tools = tampers.then(|| setting::u_boot_tools(&cli.global)).transpose()?;
            let signing = tools.as_ref().map(|tools| &tools.signing);
            let emulator = setting::emulator(&cli.global);
            Ok(match crate::emu::run::run(args, signing, emulator.as_deref())? {
                Outcome::NotFound(reason) => {
                    eprintln!("image-builder: {reason}");
                    ExitCode::from(1)
                }
                Outcome::Found | Outcome::Ended(_) | Outcome::Cut => ExitCode::SUCCESS,
            })
        }
        Command::Verify(args) => {
            // Without a build there is no tool for the signature; the rest is compared.
            let tools = setting::u_boot_tools(&cli.global).ok();
            let tool = tools.as_ref().map(|tools| tools.fit_check_sign.as_path());
            image::cli::verify(args, json, tool)
        }
        Command::Inspect(args) => image::cli::inspect(args, json),
        Command::Diff(args) => image::cli::diff(args, json),
        Command::Bundle(args) => image::cli::bundle(args, json, &setting::keys(&cli.global)?),
        Command::Tamper(args) => {
            image::cli::tamper(args, json, &setting::u_boot_tools(&cli.global)?.signing)
        }
        Command::Recipe(command) => image::cli::recipe(command),
        Command::Flash(args) => flash::run(&cli.global, args),
        Command::Devices(args) => devices::run(&cli.global, args),
        Command::Keys(command) => keys::run(&cli.global, command),
        Command::Reproduce(args) => reproduce::run(&cli.global, args),
        Command::Components => components::run(&cli.global),
        Command::Sources(command) => sources::run(&cli.global, command),
        Command::Docs(args) => docs::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("disk full");
        let error = anyhow::Error::new(cause).context("cannot write x");
        assert_eq!(told(&error), "cannot write x: disk full");
        let cause = std::io::Error::other("disk full");
        let error = anyhow::Error::new(cause).context("cannot write x: disk full; make room");
        assert_eq!(told(&error), "cannot write x: disk full; make room");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
