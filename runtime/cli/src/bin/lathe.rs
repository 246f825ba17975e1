//! `lathe`: compile transformer models into native CPU programs and run them.

fn main() -> std::process::ExitCode {
    lathe::cli::main(None)
}
