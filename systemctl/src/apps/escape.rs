//! systemd-escape

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use unit_file::{UnitName, name};

use crate::cli::parse;
use crate::names;

/// Escape texts for unit names
#[derive(Debug, Parser)]
#[command(
    name = "systemd-escape",
    version,
    after_help = "Example:\n  systemd-escape --path --suffix=mount '/var/lib/data dir'"
)]
struct Options {
    /// Texts
    #[arg(required = true)]
    texts: Vec<String>,
    /// Append this unit type
    #[arg(long)]
    suffix: Option<String>,
    /// Put the escaped text in this template
    #[arg(long)]
    template: Option<String>,
    /// The text is a path
    #[arg(short = 'p', long)]
    path: bool,
    /// Undo escaping
    #[arg(short = 'u', long)]
    unescape: bool,
    /// Make a unit name of whatever it is
    #[arg(short = 'm', long)]
    mangle: bool,
    /// With --unescape: take only the instance of a unit name
    #[arg(long)]
    instance: bool,
}

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let mut out = Vec::new();
    for text in &options.texts {
        match one(text, &options) {
            Ok(text) => out.push(text),
            Err(error) => {
                eprintln!("systemd-escape: {error}");
                return ExitCode::from(1);
            }
        }
    }
    println!("{}", out.join(" "));
    ExitCode::SUCCESS
}

fn one(text: &str, options: &Options) -> Result<String, String> {
    if options.unescape {
        return unescape(text, options);
    }
    if options.mangle {
        let suffix = format!(".{}", options.suffix.as_deref().unwrap_or("service"));
        return Ok(names::mangle(text, &suffix));
    }
    let escaped = if options.path {
        name::escape_path(text).ok_or_else(|| format!("{text:?} is no path that can be escaped"))?
    } else {
        name::escape(text)
    };
    match (&options.template, &options.suffix) {
        (Some(template), _) => {
            let parsed =
                UnitName::parse(template).map_err(|error| format!("{template:?}: {error}"))?;
            let named = parsed
                .with_instance(&escaped)
                .map_err(|error| format!("{template:?}: {error}"))?;
            Ok(named.as_str().to_owned())
        }
        (None, Some(suffix)) => Ok(format!("{escaped}.{suffix}")),
        (None, None) => Ok(escaped),
    }
}

fn unescape(text: &str, options: &Options) -> Result<String, String> {
    let mut part = text.to_owned();
    if let Some(template) = &options.template {
        let parsed = UnitName::parse(text).map_err(|error| format!("{text:?}: {error}"))?;
        if parsed
            .template()
            .is_none_or(|found| found.as_str() != template)
        {
            return Err(format!("{text:?} is no instance of {template:?}"));
        }
        part = parsed.instance().unwrap_or_default().to_owned();
    } else if options.instance {
        let parsed = UnitName::parse(text).map_err(|error| format!("{text:?}: {error}"))?;
        part = parsed
            .instance()
            .ok_or_else(|| format!("{text:?} has no instance"))?
            .to_owned();
    }
    let out = if options.path {
        name::unescape_path(&part)
    } else {
        name::unescape(&part)
    };
    out.ok_or_else(|| format!("{text:?} is not escaped right"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (line, expect) in [
            (
                vec!["Hallöchen, Meister"],
                "Hall\\xc3\\xb6chen\\x2c\\x20Meister",
            ),
            (vec!["--path", "/tmp//waldi/foobar/"], "tmp-waldi-foobar"),
            (vec!["--suffix=mount", "-p", "/var/lib"], "var-lib.mount"),
            (vec!["--template=a@.service", "x y"], "a@x\\x20y.service"),
            (vec!["-u", "a\\x20b"], "a b"),
            (
                vec!["-u", "--template=a@.service", "a@x\\x20y.service"],
                "x y",
            ),
            (vec!["-m", "tmp"], "tmp.service"),
        ] {
            let options =
                Options::try_parse_from(std::iter::once("systemd-escape").chain(line.clone()))
                    .unwrap();
            assert_eq!(
                one(&options.texts[0], &options).as_deref(),
                Ok(expect),
                "{line:?}"
            );
        }
    }
}
