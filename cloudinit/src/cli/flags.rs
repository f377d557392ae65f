//! Flags as the original takes them: one or two dashes, `-flag=value` or a blank. Pure.

/// One flag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// What the value is called; none: a switch.
    pub(crate) value: Option<&'static str>,
    pub(crate) help: &'static str,
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        value: None,
        help,
    }
}

const fn text(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        value: Some(value),
        help,
    }
}

pub(crate) const FLAGS: &[Flag] = &[
    switch("version", "print the version and exit"),
    switch("help", "print this help and exit"),
    switch(
        "validate",
        "check user data, print findings, change nothing; exit 1 if there are any",
    ),
    switch(
        "ignore-failure",
        "exit 0 although something could not be fetched or read",
    ),
    text("from-file", "PATH", "read user data from a file"),
    text(
        "from-configdrive",
        "DIR",
        "read a directory in the layout of a config drive",
    ),
    text(
        "from-nocloud",
        "DIR",
        "read a directory with NoCloud's files",
    ),
    text("from-url", "URL", "fetch user data from an address"),
    text(
        "from-ec2-metadata",
        "URL",
        "read EC2's metadata service (http://169.254.169.254/)",
    ),
    text(
        "from-openstack-metadata",
        "URL",
        "read OpenStack's metadata service",
    ),
    text(
        "from-digitalocean-metadata",
        "URL",
        "read DigitalOcean's metadata service",
    ),
    switch(
        "from-metadata-service",
        "old name of -from-ec2-metadata http://169.254.169.254/",
    ),
    switch(
        "from-proc-cmdline",
        "fetch user data from the address in cloud-config-url=",
    ),
    text(
        "oem",
        "NAME",
        "preset flags of a platform: digitalocean, ec2-compat, rackspace-onmetal",
    ),
    text(
        "convert-netconf",
        "FORMAT",
        "make networkd files from the drive's settings (debian)",
    ),
    text(
        "workspace",
        "DIR",
        "where scripts are kept (/var/lib/coreos-cloudinit)",
    ),
    text(
        "ssh-key-name",
        "NAME",
        "name of the key sets (coreos-cloudinit)",
    ),
    text(
        "stage",
        "STAGE",
        "run a stage of the boot: local, config or commands",
    ),
    text(
        "timeout",
        "SECONDS",
        "longest wait for a source (300; 0 with -validate, -dry-run), or for network and addresses in a stage (60)",
    ),
    text(
        "root",
        "DIR",
        "apply below a directory instead of the running system",
    ),
    switch(
        "detect-addresses",
        "find $private_ipv4 and its like on this machine",
    ),
    switch("dry-run", "print the plan, change nothing"),
    switch("json", "print findings or the plan as JSON"),
    switch("strict", "with -validate -json: exit 1 on warnings too"),
];

/// Flags with their values, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given(Vec<(&'static str, String)>);

impl Given {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }
}

/// Reads arguments; what follows the first word that is no flag is left over.
pub(crate) fn parse(args: &[String]) -> Result<(Given, Vec<String>), String> {
    let mut given = Given::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            let mut left = vec![arg.clone()];
            left.extend(rest.cloned());
            return Ok((given, left));
        };
        if body.is_empty() {
            return Ok((given, rest.cloned().collect()));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let name = if name == "h" { "help" } else { name };
        let flag = FLAGS
            .iter()
            .find(|f| f.name == name)
            .ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
        let value = match (flag.value, value) {
            (Some(_), Some(value)) => value,
            (Some(_), None) => rest
                .next()
                .cloned()
                .ok_or_else(|| format!("flag needs an argument: -{name}"))?,
            (None, None) => "true".to_owned(),
            (None, Some(value)) => match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => "true".to_owned(),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => "false".to_owned(),
                other => return Err(format!("invalid boolean value \"{other}\" for -{name}")),
            },
        };
        given.0.push((flag.name, value));
    }
    Ok((given, Vec::new()))
}

/// The help text.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Applies cloud-config user data to this machine: host name, users, keys, files, units.\n\n\
         Usage: flotilla-cloudinit -from-… SOURCE [flags]\n       \
         flotilla-cloudinit -stage STAGE [flags]\n       \
         flotilla-cloudinit completion bash|zsh|fish\n\nFlags (one or two dashes):\n",
    );
    let shown: Vec<String> = FLAGS
        .iter()
        .map(|flag| match flag.value {
            Some(value) => format!("-{} {value}", flag.name),
            None => format!("-{}", flag.name),
        })
        .collect();
    let width = shown.iter().map(String::len).max().unwrap_or_default();
    for (name, flag) in shown.iter().zip(FLAGS) {
        text.push_str(&format!("  {name:<width$}  {}\n", flag.help));
    }
    text.push_str(
        "\nExamples:\n  flotilla-cloudinit -validate -from-file user-data.yml\n  \
         flotilla-cloudinit -dry-run -from-file user-data.yml\n  \
         sudo flotilla-cloudinit -from-file user-data.yml\n\n\
         Exit status: 0 done, 1 failed or findings, 2 wrong usage.\n",
    );
    text
}

/// A completion script for a shell.
pub(crate) fn completion(shell: &str) -> Option<String> {
    let names: Vec<String> = FLAGS.iter().map(|f| format!("--{}", f.name)).collect();
    match shell {
        "bash" => Some(format!(
            "_flotilla_cloudinit() {{\n  case \"${{COMP_WORDS[COMP_CWORD-1]}}\" in\n    \
             --from-file|-from-file) COMPREPLY=($(compgen -f -- \"${{COMP_WORDS[COMP_CWORD]}}\"));;\n    \
             *) COMPREPLY=($(compgen -W \"{}\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"));;\n  esac\n}}\n\
             complete -o default -F _flotilla_cloudinit flotilla-cloudinit coreos-cloudinit\n",
            names.join(" ")
        )),
        "zsh" => {
            let mut text =
                String::from("#compdef flotilla-cloudinit coreos-cloudinit\n_arguments \\\n");
            for flag in FLAGS {
                let help = flag.help.replace(['[', ']', '\''], "").replace(':', " ");
                let value = flag
                    .value
                    .map(|v| format!(":{v}:_files"))
                    .unwrap_or_default();
                text.push_str(&format!("  '--{}[{help}]{value}' \\\n", flag.name));
            }
            text.push_str("  && return 0\n");
            Some(text)
        }
        "fish" => Some(
            FLAGS
                .iter()
                .map(|f| {
                    let needs = if f.value.is_some() { " -r" } else { "" };
                    let help = f.help.replace('\'', "");
                    format!(
                        "complete -c flotilla-cloudinit -l {}{needs} -d '{help}'\n",
                        f.name
                    )
                })
                .collect(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn one_or_two_dashes_with_equals_or_blank() {
        for line in [
            "-from-file=x -validate",
            "--from-file x --validate=true",
            "-from-file x -validate=1",
        ] {
            let (given, rest) = parse(&args(line)).unwrap();
            assert_eq!(given.text("from-file"), Some("x"), "{line}");
            assert!(given.is_set("validate"));
            assert!(rest.is_empty());
        }
        let (given, rest) = parse(&args("-json=false completion bash")).unwrap();
        assert!(!given.is_set("json"));
        assert_eq!(rest, ["completion", "bash"]);
        for bad in ["-nonsense", "-from-file", "-validate=maybe"] {
            assert!(parse(&args(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_shell_gets_every_flag() {
        for shell in ["bash", "zsh", "fish"] {
            let text = completion(shell).unwrap();
            assert!(FLAGS.iter().all(|f| text.contains(f.name)), "{shell}");
        }
        assert!(completion("csh").is_none());
    }
}
