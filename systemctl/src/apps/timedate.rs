//! timedatectl

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use dbus_api::blocking::Connection;
use dbus_api::wire::Value;
use dbus_api::{Call, Properties};

use super::{fail, properties};
use crate::cli::parse;
use crate::format::property;
use crate::format::time::{self, Zone};

const NAME: &str = "org.freedesktop.timedate1";
const PATH: &str = "/org/freedesktop/timedate1";

/// Query or change the time zone and time synchronisation
#[derive(Debug, Parser)]
#[command(
    name = "timedatectl",
    version,
    after_help = "Example:\n  timedatectl set-timezone Europe/Vienna"
)]
struct Options {
    /// status | show | set-timezone ZONE | list-timezones | set-ntp BOOL
    words: Vec<String>,
    /// Show only these properties
    #[arg(short = 'p', long = "property", value_delimiter = ',')]
    properties: Vec<String>,
    /// Only print values
    #[arg(long)]
    value: bool,
    /// Accepted and without effect
    #[arg(long, hide = true)]
    no_pager: bool,
}

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let mut bus = match Connection::system() {
        Ok(bus) => bus,
        Err(error) => return fail("timedatectl", "failed to connect to the bus", &error),
    };
    let (member, body) = match words.as_slice() {
        [] | ["status" | "show"] => {
            return match properties(&mut bus, NAME, PATH, NAME) {
                Ok(all) if words == ["show"] => show(&all, &options),
                Ok(all) => status(&all),
                Err(error) => fail("timedatectl", "failed to read the time settings", &error),
            };
        }
        ["list-timezones"] => {
            let call = Call::new(NAME, PATH, NAME, "ListTimezones", vec![], |body| {
                body.first()?.as_strings()
            });
            return match bus.call(call) {
                Ok(zones) => {
                    for zone in zones {
                        println!("{zone}");
                    }
                    ExitCode::SUCCESS
                }
                Err(error) => fail("timedatectl", "failed to list time zones", &error),
            };
        }
        ["set-timezone", zone] => ("SetTimezone", vec![Value::str(*zone), Value::Bool(false)]),
        ["set-ntp", word] => {
            let on = match *word {
                "true" | "yes" | "on" | "1" => true,
                "false" | "no" | "off" | "0" => false,
                other => {
                    eprintln!("timedatectl: set-ntp: {other:?} is neither true nor false");
                    return ExitCode::from(2);
                }
            };
            ("SetNTP", vec![Value::Bool(on), Value::Bool(false)])
        }
        _ => {
            eprintln!(
                "timedatectl: unknown command or wrong number of arguments\nhint: timedatectl --help"
            );
            return ExitCode::from(2);
        }
    };
    match bus.call(Call::new(NAME, PATH, NAME, member, body, |_| Some(()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("timedatectl", "failed to change the time settings", &error),
    }
}

fn show(all: &Properties, options: &Options) -> ExitCode {
    let order = [
        "Timezone",
        "LocalRTC",
        "CanNTP",
        "NTP",
        "NTPSynchronized",
        "TimeUSec",
        "RTCTimeUSec",
    ];
    for name in order {
        if !options.properties.is_empty() && !options.properties.iter().any(|wanted| wanted == name)
        {
            continue;
        }
        let text = all
            .get(name)
            .and_then(|value| property::text(name, value, &Zone::local()))
            .unwrap_or_default();
        if options.value {
            println!("{text}");
        } else {
            println!("{name}={text}");
        }
    }
    ExitCode::SUCCESS
}

fn status(all: &Properties) -> ExitCode {
    let now = time::now();
    let word = |name: &str| {
        if all.bool(name) == Some(true) {
            "yes"
        } else {
            "no"
        }
    };
    let rtc = all.u64("RTCTimeUSec").filter(|at| *at != 0);
    let rtc = rtc.map_or_else(
        || "n/a".to_owned(),
        |at| time::timestamp(at, &Zone::default()),
    );
    let rtc = rtc.trim_end_matches(" UTC").to_owned();
    let service = if all.bool("NTP") == Some(true) {
        "active"
    } else {
        "inactive"
    };
    for (label, value) in [
        ("Local time", time::timestamp(now, &Zone::local())),
        ("Universal time", time::timestamp(now, &Zone::default())),
        ("RTC time", rtc),
        (
            "Time zone",
            all.str("Timezone").unwrap_or_default().to_owned(),
        ),
        (
            "System clock synchronized",
            word("NTPSynchronized").to_owned(),
        ),
        ("NTP service", service.to_owned()),
        ("RTC in local TZ", word("LocalRTC").to_owned()),
    ] {
        println!("{label:>25}: {value}");
    }
    ExitCode::SUCCESS
}
