//! What holds for all flags.

use clap::CommandFactory;

use super::*;

/// `--json` of `test` names a file and is no switch, so that it has a variable of its own.
const OTHER: &[(&str, &str)] = &[("test", "json")];

#[test]
fn every_flag_reads_its_variable() {
    let mut cli = Cli::command();
    cli.build();
    for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
        for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
            let Some(long) = flag.get_long().filter(|long| !["help", "version"].contains(long)) else {
                continue;
            };
            if OTHER.contains(&(command.get_name(), long)) {
                continue;
            }
            let expected = format!("LATHE_{}", long.to_uppercase().replace('-', "_"));
            let found = flag.get_env().and_then(|name| name.to_str());
            assert_eq!(found, Some(expected.as_str()), "{} --{long}", command.get_name());
        }
    }
}

#[test]
fn later_flags_are_not_there_yet() {
    let mut cli = Cli::command();
    cli.build();
    let commands: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    let generate = cli.find_subcommand("generate").expect("a command");
    let longs: Vec<String> =
        generate.get_arguments().filter_map(|flag| Some(format!("--{}", flag.get_long()?))).collect();
    for later in crate::cli::LATER {
        assert!(!commands.contains(later) && !longs.iter().any(|long| long == later), "{later} is there");
    }
}
