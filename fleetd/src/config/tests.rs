//! What files and variables make of the settings.

use proptest::prelude::*;

use super::*;

#[test]
fn a_file_and_the_environment_are_read_and_complaints_say_where() {
    let text = "# c\nmetadata=\"role=core,disk=ssd\"\netcd_servers=[\"http://10.0.2.11:2379\", 'http://10.0.2.12:2379']\n\
                agent_ttl=30s\npublic_ip=10.0.2.11\nverbosity=x\nfoo=1\netcd_cafile=\nenable_grpc=true\n";
    let environment = [
        ("FLEET_PUBLIC_IP".to_owned(), "10.0.2.99".to_owned()),
        ("FLEET_ETCD_KEY_PREFIX".to_owned(), "x/y".to_owned()),
        ("HOME".to_owned(), "/".to_owned()),
    ];
    let (s, warnings) = Settings::from_text("f", text, environment.into_iter()).unwrap();
    assert_eq!(s.metadata["role"], "core");
    assert_eq!(s.etcd_servers.len(), 2);
    assert_eq!(s.agent_ttl, Duration::from_secs(30));
    assert_eq!(
        (s.public_ip.as_str(), s.etcd_key_prefix.as_str()),
        ("10.0.2.99", "/x/y/")
    );
    assert_eq!(
        warnings,
        [
            "f:9: enable_grpc: not needed with etcd v3",
            "f:7: unknown key foo",
            "f:6: verbosity: not a number; the default stays",
        ]
    );
    let error = Settings::from_text("f", "a=b\nnonsense", std::iter::empty()).unwrap_err();
    assert_eq!(error.to_string(), "f:2: neither a comment nor KEY=VALUE");
    assert!(Settings::from_text("f", "etcd_servers=ftp://x", std::iter::empty()).is_err());
}

#[test]
fn what_is_not_set_has_the_contracts_default() {
    let (s, warnings) = read("").unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let servers: Vec<_> = s.etcd_servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["http://127.0.0.1:2379", "http://127.0.0.1:4001"]);
    assert!(s.etcd_credentials.is_none() && s.etcd_tls.is_none() && s.api_tls.is_none());
    assert_eq!(s.etcd_key_prefix, "/_coreos.com/fleet/");
    assert_eq!(s.etcd_request_timeout, Duration::from_secs(1));
    assert_eq!(s.engine_reconcile_interval, Duration::from_secs(2));
    assert_eq!((s.verbosity, s.public_ip.as_str()), (0, ""));
    assert_eq!((s.metadata.len(), s.token_limit), (0, 100));
    // Better than the original's 30 s.
    assert_eq!(s.agent_ttl, Duration::from_secs(10));
    assert!(!s.disable_engine && !s.disable_watches && !s.systemd_user);
    assert_eq!(s.units_directory, PathBuf::from("/run/fleet/units"));
    assert_eq!(s.rebalance_on_join, 0, "nothing moves unasked");
}

#[test]
fn how_many_units_move_to_a_machine_that_joins_is_a_number() {
    for (text, expect, complaints) in [("0", 0, 0), ("12", 12, 0), ("-1", 0, 1), ("all", 0, 1)] {
        let (s, warnings) = read(&format!("rebalance_on_join={text}")).unwrap();
        assert_eq!(
            (s.rebalance_on_join, warnings.len()),
            (expect, complaints),
            "{text}"
        );
    }
}

fn read(text: &str) -> Result<(Settings, Vec<String>), ConfigError> {
    Settings::from_text("f", text, std::iter::empty())
}

#[test]
fn every_key_of_the_contract_is_understood() {
    let text = "verbosity=1\netcd_servers=http://h:1\netcd_username=u\netcd_password=p\n\
                etcd_cafile=\netcd_certfile=\netcd_keyfile=\netcd_key_prefix=/p\n\
                etcd_request_timeout=2.5\nengine_reconcile_interval=0.5\npublic_ip=1.2.3.4\n\
                metadata=a=b\nagent_ttl=1m\ntoken_limit=7\ndisable_engine=true\n\
                units_directory=/u\nsystemd_user=yes\n\
                api_certfile=/ac\napi_keyfile=/ak\napi_cafile=/aca\n\
                api_roles=ops:admin, ci:operate\nplain_role=read\naudit=no\n\
                enable_grpc=false\ndisable_watches=true\nverify_units=\nauthorized_keys_file=\n";
    let (s, warnings) = read(text).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((s.verbosity, s.token_limit, s.disable_engine), (1, 7, true));
    assert!(s.disable_watches);
    assert_eq!(s.etcd_request_timeout, Duration::from_millis(2500));
    assert_eq!(s.engine_reconcile_interval, Duration::from_millis(500));
    assert_eq!(s.etcd_credentials.unwrap().user, "u");
    assert_eq!((s.systemd_user, s.audit), (true, false));
    assert_eq!(s.api_tls.unwrap().ca, PathBuf::from("/aca"));
    assert_eq!(
        (s.api_roles["ops"], s.api_roles["ci"]),
        (Role::Admin, Role::Operate)
    );
    assert_eq!(s.plain_role, Role::Read);
}

#[test]
fn a_slip_in_a_key_of_access_is_an_error() {
    for (text, expect) in [
        (
            "\napi_roles=ops",
            "f:2: api_roles: \"ops\" is not NAME:ROLE",
        ),
        (
            "api_roles=ops:king",
            "f:1: api_roles: \"king\" is none of read, operate, admin",
        ),
        (
            "api_roles=a:read,a:admin",
            "f:1: api_roles: a is there twice",
        ),
        (
            "plain_role=none",
            "f:1: plain_role: \"none\" is none of read, operate, admin",
        ),
        ("audit=perhaps", "f:1: audit: neither yes nor no"),
        (
            "api_certfile=/c",
            "api_certfile is set, api_keyfile is not: TLS needs both",
        ),
        (
            "api_cafile=/c",
            "api_cafile is set, api_certfile is not: TLS needs both",
        ),
    ] {
        assert_eq!(read(text).unwrap_err().to_string(), expect, "{text}");
    }
}

#[test]
fn files_for_tls_are_read_at_once_and_named_when_bad() {
    let load = |text: &str| {
        Settings::from_text("f", text, std::iter::empty()).map(|(s, _)| s.etcd_tls.is_some())
    };
    assert!(!load("etcd_cafile=\netcd_certfile=\n").unwrap());
    for (text, expect) in [
        ("etcd_cafile=/nowhere/ca.pem", "/nowhere/ca.pem: "),
        (
            "etcd_certfile=/nowhere/a.pem",
            "a.pem is of no use without a key",
        ),
        (
            "etcd_servers=https://a:1\netcd_cafile=/dev/null",
            "/dev/null: holds no certificate",
        ),
    ] {
        let chain = telemetry::chain(&load(text).unwrap_err());
        assert!(chain.contains(expect), "{text}: {chain}");
    }
}

#[test]
fn addresses_for_dns_may_have_ports() {
    for (text, expect) in [
        ("127.0.0.54", Some("127.0.0.54:53")),
        ("127.0.0.54:5353", Some("127.0.0.54:5353")),
        ("::1", Some("[::1]:53")),
        ("[::1]:5353", Some("[::1]:5353")),
        ("localhost", None),
        ("127.0.0.54:x", None),
        ("", None),
    ] {
        let read = dns_address(text).map(|a| a.to_string());
        assert_eq!(read.as_deref(), expect, "{text}");
    }
    let text = "dns_listen=127.0.0.54, 172.17.0.1";
    let (settings, warnings) = Settings::from_text("f", text, std::iter::empty()).unwrap();
    assert_eq!((settings.dns_listen.len(), warnings.len()), (2, 0));
}

#[test]
fn defaults_given_at_the_start_yield_to_the_file_and_that_to_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.conf");
    let defaults = [
        "dns_listen=127.0.0.54".to_owned(),
        "token_limit=7".to_owned(),
    ];
    let load = |text: &str, variable: Option<&str>| {
        std::fs::write(&file, text).unwrap();
        let variable = variable.map(|value| ("FLEET_DNS_LISTEN".to_owned(), value.to_owned()));
        let (settings, warnings) =
            Settings::load(&defaults, Some(&file), variable.into_iter()).unwrap();
        assert_eq!((settings.token_limit, warnings), (7, vec![]));
        let addresses = settings.dns_listen.iter().map(ToString::to_string);
        addresses.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(load("", None), "127.0.0.54:53");
    assert_eq!(load("dns_listen=127.0.0.53", None), "127.0.0.53:53");
    assert_eq!(load("dns_listen=", None), "");
    assert_eq!(
        load("dns_listen=127.0.0.53", Some("127.0.0.52")),
        "127.0.0.52:53"
    );
    let error = Settings::load(&["nonsense".to_owned()], Some(&file), std::iter::empty());
    let said = "--default:1: neither a comment nor KEY=VALUE";
    assert_eq!(error.unwrap_err().to_string(), said);
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused(
        lines in prop::collection::vec(
            ("verbosity|etcd_servers|metadata|agent_ttl|token_limit|offer_cpus|offer_memory|\
              api_roles|plain_role|dns_listen|etcd_request_timeout|\\PC{0,5}",
             "\\PC{0,12}|[0-9a-z.:,=\\[\\]\"-]{0,12}"),
            0..6,
        )
    ) {
        let lines: Vec<String> = lines.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        if let Err(error) = read(&lines.join("\n")) {
            // Whoever reads it finds the place.
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
