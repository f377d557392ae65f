//! The command line as it is typed: prefixes, short forms, where flags may stand, help.

use super::help::command;
use super::*;

fn parsed(text: &str) -> Result<Cli, clap::Error> {
    parse(text.split(' '))
}

fn name_of(text: &str) -> Option<String> {
    let matches = command().try_get_matches_from(text.split(' ')).ok()?;
    matches.subcommand_name().map(str::to_owned)
}

#[test]
fn the_command_line_is_consistent() {
    command().debug_assert();
}

#[test]
fn every_global_flag_is_also_a_variable() {
    let command = command();
    let global = command.get_arguments().filter(|arg| arg.is_global_set());
    let mut seen = 0;
    for arg in global.filter(|arg| !["help", "h"].contains(&arg.get_id().as_str())) {
        let flag = arg.get_long().unwrap();
        let variable = format!("FLEETCTL_{}", flag.replace('-', "_").to_uppercase());
        assert_eq!(arg.get_env(), Some(variable.as_ref()), "--{flag}");
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn commands_can_be_shortened_as_in_the_original() {
    for (short, full) in [
        ("c", "cat"),
        ("d", "destroy"),
        ("j", "journal"),
        ("lo", "load"),
        ("re", "restart"),
        ("r", "restart"),
        ("rest", "restart"),
        ("sub", "submit"),
        ("stat", "status"),
        ("un", "unload"),
        ("vers", "version"),
        ("list-m", "list-machines"),
        ("dr", "drain"),
        ("resu", "result"),
        ("exp", "explain"),
        ("unc", "uncordon"),
        ("start", "start"),
    ] {
        assert_eq!(
            name_of(&format!("fleetctl {short} 12345678"))
                .as_deref()
                .or(name_of(&format!("fleetctl {short}")).as_deref()),
            Some(full),
            "{short}"
        );
    }
    for ambiguous in ["s", "sta", "st", "l", "list", "list-unit", "v", "ver"] {
        assert_eq!(
            name_of(&format!("fleetctl {ambiguous} a")),
            None,
            "{ambiguous}"
        );
    }
    assert_eq!(name_of("fleetctl nonsense"), None);
}

#[test]
fn flags_stand_anywhere_and_short_forms_have_one_or_two_dashes() {
    for text in ["-l", "--l", "--full"] {
        let Some(Command::ListUnits(args)) = parsed(&format!("fleetctl list-units {text}"))
            .unwrap()
            .command
        else {
            panic!("{text}")
        };
        assert!(args.list.full, "{text}");
    }
    for text in ["-f", "--f", "--follow"] {
        let Some(Command::Journal(args)) = parsed(&format!("fleetctl journal a {text}"))
            .unwrap()
            .command
        else {
            panic!("{text}")
        };
        assert!(args.follow, "{text}");
    }
    for text in [
        "fleetctl --endpoint http://a list-units",
        "fleetctl list-units --endpoint http://a",
        "fleetctl list-units --endpoint=http://a",
        "fleetctl --endpoint http://b list-units --endpoint http://a",
    ] {
        assert_eq!(parsed(text).unwrap().global.endpoint, "http://a", "{text}");
    }
    let cli = parsed("fleetctl --strict-host-key-checking=false --debug list-units").unwrap();
    assert!(!cli.global.ssh().strict && cli.global.debug());
    assert!(
        parsed("fleetctl --strict-host-key-checking list-units")
            .unwrap()
            .global
            .ssh()
            .strict
    );
    for text in ["-h", "--h", "--help"] {
        let error = parsed(&format!("fleetctl {text}")).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{text}");
    }
}

#[test]
fn words_for_ssh_are_left_alone_and_our_flags_are_found() {
    for (text, target, command, port) in [
        ("ssh m", Some("m"), "", 22),
        ("ssh m -- ls -l", Some("m"), "ls -l", 22),
        ("ssh m ls -l", Some("m"), "ls -l", 22),
        ("ssh --ssh-port 23 m ls -A", Some("m"), "ls -A", 23),
        (
            "ssh m --ssh-port=23 ls --color",
            Some("m"),
            "ls --color",
            23,
        ),
        ("ssh -A --unit u -- ls -l", Some("ls"), "-l", 22),
        ("ssh --machine m", None, "", 22),
    ] {
        let Some(Command::Ssh(ssh)) = parsed(&format!("fleetctl {text}")).unwrap().command else {
            panic!("{text}")
        };
        let words: Vec<&str> = ssh
            .command
            .iter()
            .map(String::as_str)
            .filter(|w| *w != "--")
            .collect();
        assert_eq!(
            (
                ssh.target.as_deref(),
                words.join(" ").as_str(),
                ssh.ssh_port
            ),
            (target, command, port),
            "{text}"
        );
        assert_eq!(ssh.forward_agent, text.contains("ssh -A"), "{text}");
    }
}

#[test]
fn bad_usage_is_refused() {
    for text in [
        "fleetctl list-units --nonsense",
        "fleetctl start --no-block --wait-active a",
        "fleetctl replace --max-unavailable 0 a",
        "fleetctl scale web@ many",
        "fleetctl result --block-attempts 1 a",
        "fleetctl drain",
        "fleetctl --ssh-timeout soon list-units",
        "fleetctl completion tcsh",
        "fleetctl import",
    ] {
        let error = parsed(text).unwrap_err();
        assert!(error.use_stderr(), "{text}");
    }
}

#[test]
fn every_command_is_described_with_an_example() {
    let mut root = command();
    root.build();
    for sub in root
        .get_subcommands_mut()
        .filter(|c| c.get_name() != "help")
    {
        let name = sub.get_name().to_owned();
        let help = sub.render_long_help().to_string();
        for section in ["NAME:", "USAGE:", "DESCRIPTION:", "GLOBAL OPTIONS:"] {
            assert!(help.contains(section), "{name}: {section}\n{help}");
        }
        assert!(help.contains("Example"), "{name}");
        assert!(!help.contains("\nOptions:"), "{name}\n{help}");
    }
    let help = long_help();
    for section in [
        "NAME:",
        "USAGE:",
        "VERSION:",
        "DESCRIPTION:",
        "COMMANDS:",
        "OPTIONS:",
    ] {
        assert!(help.contains(section), "{section}\n{help}");
    }
}
