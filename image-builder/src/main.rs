//! The `image-builder` command.

fn main() -> std::process::ExitCode {
    image_builder::cli::main()
}
