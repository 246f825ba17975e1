//! The command line.

mod args;
mod cases;
mod checkpoint;
mod commands;
mod compare;
mod difference;
mod encoder;
mod error;
mod fill;
mod generation;
mod inputs;
mod interrupt;
mod load;
mod profile;
mod report;
mod sandbox;
mod size;
mod sizing;
mod tensors;
mod text;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use error::CliError;

/// Commands and flags that are described but come in a later version.
const LATER: &[&str] = &["serve", "--trace"];

/// Runs the command line; `command` is put before the arguments of a binary that is named after a command.
pub fn main(command: Option<&str>) -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(command) = command {
        arguments.insert(1.min(arguments.len()), command.into());
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    set_up(&cli);
    let result = run(&cli);
    lathe_compiler::cache::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", plain(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), CliError> {
    let common = &cli.common;
    match &cli.command {
        Command::Compile(args) => commands::compile::run(common, args),
        Command::Run(args) => commands::run::run(common, args),
        Command::Test(args) => commands::test::run(common, args),
        Command::Bench(args) => commands::bench::run(common, args),
        Command::Inspect(args) => commands::inspect::run(common, args),
        Command::Explain(args) => commands::explain::run(common, args),
        Command::Generate(args) => commands::generate::run(common, args),
        Command::Quantize(args) => commands::quantize::quantize(common, args),
        Command::Convert(args) => commands::quantize::run_convert(common, args),
        Command::Chat(args) => commands::chat::run(common, args),
        Command::Embed(args) => commands::embed::run(common, args),
        Command::Classify(args) => commands::classify::run(common, args),
        Command::FillMask(args) => commands::fill_mask::run(common, args),
        Command::Caption(args) => commands::caption::run(common, args),
        Command::Transcribe(args) => commands::transcribe::run(common, args),
        Command::Tokenize(args) => commands::tokenize::run(args),
        Command::Template(args) => commands::template::run(args),
        Command::Verify(args) => commands::verify::run(common, args),
        Command::Plan(args) => commands::plan::plan(common, args),
        Command::Compare(args) => commands::plan::compare(common, args),
        Command::Doctor(json) => commands::doctor::run(common, *json),
    }
}

/// A message whose control characters cannot move a terminal: names in it may come from hostile files.
fn plain(message: &str) -> String {
    let shown = |c: char| match c.is_control() && c != '\n' {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    message.chars().map(shown).collect()
}

/// Wrong usage exits with 2; help and version with 0.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand) {
        let given = arguments
            .iter()
            .filter_map(|argument| argument.to_str())
            .map(|argument| argument.split('=').next());
        if let Some(later) = given.flatten().find(|argument| LATER.contains(argument)) {
            eprintln!("error: `{later}` is not in this version");
            return ExitCode::from(2);
        }
    }
    // Nothing is left to do where even the message cannot be written.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn set_up(cli: &Cli) {
    tracing_subscriber::fmt()
        .with_max_level(cli.common.log)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    lathe_runtime::install_sigbus_handler();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What becomes an error is told as one.
        if !lathe_generate::text::panics_are_caught() {
            print(panic);
        }
    }));
}
