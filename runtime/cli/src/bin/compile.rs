//! `compile MODEL`: `lathe compile` under a name of its own.

fn main() -> std::process::ExitCode {
    lathe::cli::main(Some("compile"))
}
