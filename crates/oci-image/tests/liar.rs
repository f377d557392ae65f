//! A registry that lies: too much, too little, other bytes, nothing at all. What was in the store stays, nothing comes in.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use oci_image::build::{Built, Item, single_layer};
use oci_image::manifest::{Manifest, RunConfig};
use oci_image::pull::{Options, PullError, pull};
use oci_image::registry::{RegistryConfig, RegistryError};
use oci_image::{Digest, Reference, Store};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What is answered to a path: status line's end, further headers, body, the length that is announced.
type Answer = (&'static str, String, Vec<u8>, Option<usize>);

/// Serves answers on an ephemeral port until the test ends; its `HOST:PORT`.
fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || one(client, &*answer));
        }
    });
    address
}

fn one(mut client: TcpStream, answer: &dyn Fn(&str) -> Answer) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match client.read(&mut byte) {
            // Not a TLS hello: the client goes on with plain HTTP when the connection closes.
            Ok(1) if !request.is_empty() || byte == *b"G" => request.push(byte[0]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request);
    let Some(path) = text
        .strip_prefix("GET ")
        .and_then(|rest| rest.split(' ').next())
    else {
        return;
    };
    let (status, headers, body, length) = answer(path);
    let length = length.unwrap_or(body.len());
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    let _ = client
        .write_all(head.as_bytes())
        .and_then(|()| client.write_all(&body));
}

fn image() -> Built {
    let files = BTreeMap::from([(
        "file".to_owned(),
        Item::File {
            bytes: (0..50_000u32).flat_map(u32::to_le_bytes).collect(),
            mode: 0o644,
        },
    )]);
    single_layer(&files, RunConfig::default()).unwrap()
}

/// The image as an honest registry serves it.
fn honest(built: &Built, path: &str) -> Answer {
    let found = [&built.config, &built.layer]
        .into_iter()
        .find(|bytes| path.ends_with(Digest::of(bytes).as_str()));
    match found {
        _ if path.contains("/manifests/") => (
            "200 OK",
            "Content-Type: application/vnd.docker.distribution.manifest.v2+json\r\n".to_owned(),
            built.manifest.clone(),
            None,
        ),
        Some(bytes) => ("200 OK", String::new(), bytes.clone(), None),
        None => ("404 Not Found", String::new(), Vec::new(), None),
    }
}

#[track_caller]
fn refused(
    name: &str,
    words: &[&str],
    answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
) -> PullError {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let name: Reference = format!("{}/{name}", serve(answer)).parse().unwrap();
    let start = Instant::now();
    let error = pull(
        &store,
        &RegistryConfig::default(),
        &name,
        Options::default(),
        &(),
    )
    .unwrap_err();
    let text = chain(&error);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(store.images().unwrap().is_empty() && store.references().unwrap().is_empty());
    for left in ["layers", "tmp"] {
        assert_eq!(
            std::fs::read_dir(home.path().join(left)).unwrap().count(),
            0,
            "{left}"
        );
    }
    error
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[test]
fn an_honest_one_is_believed() {
    let built = image();
    let (id, host) = (built.id(), serve(move |path| honest(&built, path)));
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let name: Reference = format!("{host}/a").parse().unwrap();
    let pulled = pull(
        &store,
        &RegistryConfig::default(),
        &name,
        Options::default(),
        &(),
    )
    .unwrap();
    assert_eq!(pulled.image.id, id);
}

#[test]
fn more_bytes_than_announced_are_not_taken() {
    let built = image();
    // A manifest beyond 4 MiB, a layer and a configuration longer than their descriptors.
    refused("a", &["larger than the 4194304 bytes"], |_| {
        ("200 OK", String::new(), vec![b' '; (4 << 20) + 1], None)
    });
    let lying = built.clone();
    refused(
        "a",
        &["failed to fetch layer sha256:", "larger than the"],
        move |path| {
            let (status, headers, mut body, _) = honest(&lying, path);
            if path.ends_with(Digest::of(&lying.layer).as_str()) {
                body.extend([0; 100]);
            }
            (status, headers, body, None)
        },
    );
    let lying = built.clone();
    refused(
        "a",
        &["the image configuration", "wrong digest"],
        move |path| {
            let (status, headers, mut body, _) = honest(&lying, path);
            if path.ends_with(Digest::of(&lying.config).as_str()) {
                body.extend([b' '; 100]);
            }
            (status, headers, body, None)
        },
    );
}

#[test]
fn other_bytes_than_named_are_not_taken() {
    let built = image();
    let other = Digest::of(b"another manifest");
    let lying = built.clone();
    let error = refused(
        &format!("a@{other}"),
        &["wrong digest", other.as_str()],
        move |path| honest(&lying, path),
    );
    assert!(
        matches!(error, PullError::Registry(RegistryError::Hosts(_))),
        "{error:?}"
    );
    let lying = built.clone();
    refused("a", &["wrong digest"], move |path| {
        let (status, mut headers, body, _) = honest(&lying, path);
        if path.contains("/manifests/") {
            headers += &format!("Docker-Content-Digest: {}\r\n", Digest::of(b"x"));
        }
        (status, headers, body, None)
    });
    // The archive is a good one, but not the one of the configuration.
    let mut lying = built.clone();
    let foreign = single_layer(
        &BTreeMap::from([("x".to_owned(), Item::Directory)]),
        RunConfig::default(),
    )
    .unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&lying.manifest).unwrap();
    manifest.layers[0].digest = Digest::of(&foreign.layer);
    manifest.layers[0].size = foreign.layer.len() as u64;
    lying.manifest = serde_json::to_vec(&manifest).unwrap();
    lying.layer = foreign.layer;
    let error = refused(
        "a",
        &[
            "is refused: its content is sha256:",
            "the image names sha256:",
        ],
        move |path| honest(&lying, path),
    );
    assert!(matches!(error, PullError::DiffId { .. }));
}

#[test]
fn what_is_no_registry_is_named() {
    refused("a", &["image 127.0.0.1:", "is refused"], |_| {
        (
            "200 OK",
            "Content-Type: text/html\r\n".to_owned(),
            b"<html>welcome</html>".to_vec(),
            None,
        )
    });
    refused("a", &["pull access denied for"], |_| {
        ("403 Forbidden", String::new(), Vec::new(), None)
    });
    refused(
        "a",
        &["the registry answered 418", "short and stout"],
        |_| {
            (
                "418 I'm a teapot",
                String::new(),
                b"short and stout".to_vec(),
                None,
            )
        },
    );
    // It ends before its own announced length, every time.
    let built = image();
    refused(
        "a",
        &["failed to fetch layer", "the connection broke"],
        move |path| {
            let (status, headers, body, _) = honest(&built, path);
            if path.ends_with(Digest::of(&built.layer).as_str()) {
                return (status, headers, Vec::new(), Some(body.len()));
            }
            (status, headers, body, None)
        },
    );
}
