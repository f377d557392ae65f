//! Properties: whatever comes in, nothing panics, nothing grows without bound, and what must hold holds.
#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

mod common;

use cloudinit::config;
use cloudinit::input::{classify, validate};
use cloudinit::metadata::Addresses;
use cloudinit::plan::{self, Facts};
use cloudinit::subst::{self, Variables};
use cloudinit::yaml::{self, Node, Value};
use proptest::prelude::*;

/// Text with a taste for what YAML and the format give a meaning to.
fn yamlish() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("hostname"),
        Just("users"),
        Just("write_files"),
        Just("coreos"),
        Just("units"),
        Just("name"),
        Just("content"),
        Just("encoding"),
        Just("gzip+base64"),
        Just("etcd2"),
        Just("proxy"),
        Just("$private_ipv4"),
        Just("\\$public_ipv4"),
        Just("&a"),
        Just("*a"),
        Just("<<"),
        Just("!!binary"),
        Just("|"),
        Just(">-"),
        Just("- "),
        Just(": "),
        Just("\n"),
        Just("\n  "),
        Just("\n    "),
        Just("\t"),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just(","),
        Just("\""),
        Just("'"),
        Just("#"),
        Just("%"),
        Just("---\n"),
        Just("0644"),
        Just("yes"),
        Just("~"),
        Just("é"),
        Just("\u{feff}"),
    ];
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

/// The tree with every scalar's text removed.
fn shape(node: &Node) -> String {
    match &node.value {
        Value::Scalar(_) => "x".to_owned(),
        Value::List(items) => format!("[{}]", items.iter().map(shape).collect::<String>()),
        Value::Map(entries) => {
            entries.iter().fold("{".to_owned(), |out, e| {
                format!("{out}{}={},", e.key, shape(&e.node))
            }) + "}"
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_classified_and_validated(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = classify(&bytes);
        let report = validate(&bytes);
        prop_assert!(report.findings.iter().all(|f| f.line >= 1));
    }

    #[test]
    fn any_document_has_findings_in_line_order_within_the_text(text in yamlish()) {
        let text = format!("#cloud-config\n{text}");
        let report = validate(text.as_bytes());
        let lines = u32::try_from(text.lines().count()).unwrap();
        prop_assert!(report.findings.windows(2).all(|w| w[0].line <= w[1].line));
        prop_assert!(report.findings.iter().all(|f| f.line >= 1 && f.line <= lines.max(1)), "{report:?}");
    }

    #[test]
    fn any_document_can_be_planned_and_shown(text in yamlish()) {
        if let Ok(Some(mut root)) = config::tree(&text) {
            subst::substitute_tree(&mut root, &Variables::default());
            if let Ok(config) = config::from_tree(&root) {
                let facts = Facts { key_set: "k".into(), ..Facts::default() };
                let changes = plan::plan(&config, &facts);
                let json = serde_json::to_string(&changes).unwrap();
                let back: Vec<plan::Change> = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(&back, &changes);
                prop_assert_eq!(plan::plan(&config, &facts), changes);
                let _ = plan::render(&back);
            }
        }
    }

    #[test]
    fn values_never_change_the_structure(text in yamlish(), value in ".{0,40}\n?- a: \\[") {
        let mut vars = Variables::default();
        vars.set("private_ipv4", &value);
        vars.set("public_ipv4", "{}");
        if let Ok(Some(mut root)) = yaml::parse(&subst::protect(&text)) {
            let before = shape(&root);
            subst::substitute_tree(&mut root, &vars);
            prop_assert_eq!(shape(&root), before);
        }
    }

    #[test]
    fn protecting_keeps_every_column(text in yamlish()) {
        let protected = subst::protect(&text);
        prop_assert_eq!(protected.chars().count(), text.chars().count());
    }

    #[test]
    fn text_without_variables_is_untouched(text in "[a-z:\\\\ \n$#-]{0,80}") {
        let (out, missing) = subst::substitute_script(&text, &Variables::default());
        prop_assert_eq!(out, text);
        prop_assert!(missing.is_empty());
    }

    #[test]
    fn the_environment_file_keeps_what_is_not_ours(
        text in "([A-Z_]{1,8}=[a-z ]{0,8}\n|# c\n|\n){0,6}",
        ip in "[0-9.]{1,12}",
    ) {
        let addresses = Addresses { private_ipv4: ip.clone(), ..Addresses::default() };
        let once = plan::text::environment(&text, &addresses);
        prop_assert_eq!(plan::text::environment(&once, &addresses), once.clone());
        for line in text.lines().filter(|l| !l.starts_with("COREOS_")) {
            prop_assert!(once.lines().any(|l| l == line));
        }
        prop_assert_eq!(plan::text::addresses_of_environment(&once).private_ipv4, ip);
    }

    #[test]
    fn network_settings_never_panic(text in yamlish(), words in "[a-z0-9 .\n/-]{0,200}") {
        let _ = cloudinit::netconf::nocloud::convert(&text);
        let _ = cloudinit::netconf::debian::convert(&words);
        let _ = cloudinit::datasource::cmdline::seed(&words);
    }

    #[test]
    fn generated_names_stay_in_their_directories(name in "[a-z./]{0,20}", drop_in in "[a-z./]{0,12}") {
        let text = format!(
            "coreos: {{units: [{{name: '{name}', content: x, mask: true, drop_ins: [{{name: '{drop_in}', content: x}}]}}]}}"
        );
        let root = config::tree(&text).unwrap().unwrap();
        let config = config::from_tree(&root).unwrap();
        for change in plan::plan(&config, &Facts::default()) {
            if let plan::Change::WriteFile { path, .. } | plan::Change::Link { path, .. } = change {
                let text = path.to_string_lossy().into_owned();
                prop_assert!(text.starts_with("/etc/systemd/") || text.starts_with("/run/systemd/"));
                prop_assert!(!path.components().any(|c| c.as_os_str() == ".."), "{}", text);
            }
        }
    }
}
