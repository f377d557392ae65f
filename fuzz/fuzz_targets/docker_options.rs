//! daemon.json, the daemon's arguments, and templates of `--format`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::options::Options;
use runtime::template::Template;
use runtime::time;

fuzz_target!(|text: &str| {
    let _ = Options::default().apply_json(text);
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let _ = Options::default().apply_arguments(&words);
    let (template, value) = text.split_once('\n').unwrap_or((text, "{}"));
    if let (Ok(template), Ok(value)) = (Template::parse(template), serde_json::from_str(value)) {
        let _ = template.render(&value);
    }
    let _ = (time::parse(text), time::parse_duration(text));
});
