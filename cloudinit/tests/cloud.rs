//! Metadata services, played by a server of a few lines with a table of routes.
#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use cloudinit::datasource::cloud::{Kind, fetch};
use cloudinit::datasource::http::Client;
use cloudinit::datasource::{Fetched, Source, SourceError};

/// Serves `METHOD path` from a table; with `token`, a GET without it is refused. Logs every request.
struct Server {
    base: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(routes: &[(&'static str, &'static str)], token: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let routes: BTreeMap<_, _> = routes.iter().copied().collect();
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(request)) = lines.next() else {
                    continue;
                };
                let headers: Vec<String> = lines
                    .map_while(Result::ok)
                    .take_while(|l| !l.is_empty())
                    .collect();
                let request = request.rsplit_once(' ').unwrap().0.to_owned();
                let has = |text: &str| headers.iter().any(|h| h.eq_ignore_ascii_case(text));
                let allowed = token.is_none_or(|t| {
                    request.starts_with("PUT") && has("x-aws-ec2-metadata-token-ttl-seconds: 21600")
                        || has(&format!("x-aws-ec2-metadata-token: {t}"))
                });
                let (status, body) = match routes.get(request.as_str()) {
                    _ if !allowed => ("401 Unauthorized", ""),
                    Some(body) => ("200 OK", *body),
                    None => ("404 Not Found", ""),
                };
                seen.lock().unwrap().push(format!("{request} {status}"));
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { base, log }
    }

    fn fetch(&self, kind: Kind) -> Result<Fetched, SourceError> {
        fetch(kind, &self.base, &Client::new())
    }
}

const EC2: &[(&str, &str)] = &[
    ("PUT /latest/api/token", "secret"),
    ("GET /latest/user-data", "#cloud-config\n"),
    ("GET /latest/meta-data/instance-id", "i-1"),
    ("GET /latest/meta-data/hostname", "ip-10 other.names"),
    ("GET /latest/meta-data/local-ipv4", "10.0.0.4"),
    ("GET /latest/meta-data/public-ipv4", "192.0.2.4"),
    ("GET /latest/meta-data/public-keys/", "0=mine\n1=yours"),
    (
        "GET /latest/meta-data/public-keys/0/openssh-key",
        "ssh-rsa A mine",
    ),
    (
        "GET /latest/meta-data/public-keys/1/openssh-key",
        "ssh-rsa B yours",
    ),
];

#[track_caller]
fn check_ec2(got: &Fetched) {
    assert_eq!(got.user_data, b"#cloud-config\n");
    assert_eq!(
        (got.meta.instance_id.as_str(), got.meta.hostname.as_str()),
        ("i-1", "ip-10")
    );
    assert_eq!(got.meta.addresses.private_ipv4, "10.0.0.4");
    assert_eq!(got.meta.addresses.public_ipv4, "192.0.2.4");
    assert_eq!(got.meta.addresses.public_ipv6, "");
    assert_eq!(
        got.meta.public_keys.values().collect::<Vec<_>>(),
        ["ssh-rsa A mine", "ssh-rsa B yours"]
    );
}

#[test]
fn ec2_is_read_with_a_token() {
    let server = Server::new(EC2, Some("secret"));
    check_ec2(&server.fetch(Kind::Ec2).unwrap());
    let log = server.log.lock().unwrap();
    assert_eq!(
        log.iter().filter(|l| l.contains("401")).count(),
        0,
        "{log:?}"
    );
}

#[test]
fn ec2_without_tokens_is_read_plainly() {
    let server = Server::new(&EC2[1..], None);
    check_ec2(&server.fetch(Kind::Ec2).unwrap());
    assert_eq!(
        Source::Cloud(Kind::Ec2, server.base.clone()).unavailable(),
        None
    );
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert!(
        Source::Cloud(Kind::Ec2, format!("http://{gone}/"))
            .unavailable()
            .is_some()
    );
}

#[test]
fn ec2_with_a_broken_key_list_is_an_error() {
    let server = Server::new(&[("GET /latest/meta-data/public-keys/", "nonsense")], None);
    let error = server.fetch(Kind::Ec2).unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[test]
fn openstack_is_read() {
    let server = Server::new(
        &[
            ("GET /openstack/latest/user_data", "#!/bin/sh\n"),
            (
                "GET /openstack/latest/meta_data.json",
                r#"{"uuid": "u-1", "hostname": "vm", "public_keys": {"k": "ssh-rsa K"}}"#,
            ),
            (
                "GET /openstack/latest/vendor_data.json",
                "\"#cloud-config\\n\"",
            ),
            ("GET /latest/meta-data/local-ipv4", "10.0.0.5"),
        ],
        None,
    );
    let got = server.fetch(Kind::OpenStack).unwrap();
    assert_eq!(got.user_data, b"#!/bin/sh\n");
    assert_eq!(got.vendor_data, b"#cloud-config\n");
    assert_eq!(
        (got.meta.instance_id.as_str(), got.meta.hostname.as_str()),
        ("u-1", "vm")
    );
    assert_eq!(got.meta.addresses.private_ipv4, "10.0.0.5");
    assert_eq!(got.meta.public_keys["k"], "ssh-rsa K");
}

#[test]
fn digitalocean_is_read() {
    let server = Server::new(
        &[
            (
                "GET /metadata/v1.json",
                r#"{"droplet_id": 42, "hostname": "drop", "public_keys": ["ssh-rsa D"], "vendor_data": "v",
                   "interfaces": {"public": [{"ipv4": {"ip_address": "192.0.2.9"}, "ipv6": {"ip_address": "2001:db8::9"}}],
                                  "private": [{"ipv4": {"ip_address": "10.9.0.9"}}]}}"#,
            ),
            ("GET /metadata/v1/user-data", "#cloud-config\n"),
        ],
        None,
    );
    let got = server.fetch(Kind::DigitalOcean).unwrap();
    assert_eq!(
        (got.meta.instance_id.as_str(), got.meta.hostname.as_str()),
        ("42", "drop")
    );
    let addresses: Vec<&str> = got.meta.addresses.pairs().iter().map(|(_, v)| *v).collect();
    assert_eq!(addresses, ["192.0.2.9", "10.9.0.9", "2001:db8::9", ""]);
    assert_eq!(
        (got.user_data.as_slice(), got.vendor_data.as_slice()),
        (&b"#cloud-config\n"[..], &b"v"[..])
    );
    let empty = Server::new(&[("GET /metadata/v1.json", "<html>")], None);
    assert!(empty.fetch(Kind::DigitalOcean).is_err());
}
