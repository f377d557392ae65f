//! What lists cost.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{PAGE, Server};

/// All pages of a list: the names of the units on each.
async fn pages(server: &Server, path: &str) -> Vec<Vec<String>> {
    let (mut pages, mut token) = (Vec::new(), String::new());
    loop {
        let joint = if path.contains('?') { '&' } else { '?' };
        let next = match token.as_str() {
            "" => path.to_owned(),
            token => format!("{path}{joint}nextPageToken={token}"),
        };
        let answer = server.ask("GET", &next, None).await.json();
        let states = answer["states"].as_array().cloned().unwrap_or_default();
        let name = |state: &serde_json::Value| state["name"].as_str().unwrap().to_owned();
        pages.push(states.iter().map(name).collect());
        match answer["nextPageToken"].as_str() {
            Some(next) => token = next.to_owned(),
            None => return pages,
        }
    }
}

fn load(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_page_of_states_reads_the_states_of_a_page() {
    const UNITS: usize = 60;
    let server = Server::start().await;
    for n in 0..UNITS {
        let machine = ["m1", "m2"][n % 2];
        server
            .set_state(&format!("u{n:02}.service"), machine, "launched")
            .await;
    }
    // Says nothing yet, and is on no page.
    server.set_state("u30.service", "m0", "claimed").await;
    let before = (load(&server.counts.keys), load(&server.counts.values));
    let all = pages(&server, "/fleet/v1/state").await;
    assert_eq!(all.len(), UNITS / usize::from(PAGE) + 1);
    assert_eq!(all.last().unwrap(), &Vec::<String>::new());
    let expect: Vec<String> = (0..UNITS).map(|n| format!("u{n:02}.service")).collect();
    assert_eq!(all.concat(), expect);
    // The keys once, and each state once; not all of them for each page.
    assert_eq!(load(&server.counts.keys) - before.0, 2 * (UNITS + 1));
    assert_eq!(load(&server.counts.values) - before.1, UNITS + 1);

    let before = load(&server.counts.values);
    let one = pages(&server, "/fleet/v1/state?machineID=m2").await;
    assert_eq!(one.concat().len(), UNITS / 2);
    assert_eq!(load(&server.counts.values) - before, UNITS / 2);
}

#[tokio::test]
async fn pages_hold_what_is_there_when_they_are_read() {
    let server = Server::start().await;
    for n in 0..6 {
        let name = format!("u{n}.service");
        server.set_state(&name, "m1", "launched").await;
    }
    let ask = async |token: &str| {
        let path = format!("/fleet/v1/state?nextPageToken={token}");
        let answer = server.ask("GET", &path, None).await.json();
        let names = answer["states"].as_array().cloned().unwrap_or_default();
        let name = |state: &serde_json::Value| state["name"].as_str().unwrap().to_owned();
        names.iter().map(name).collect::<Vec<_>>()
    };
    // Nobody has read the first page: cut from all of them.
    assert_eq!(ask("AgACAA==").await, ["u2.service", "u3.service"]);
    let first = server.ask("GET", "/fleet/v1/state", None).await.json();
    assert_eq!(first["nextPageToken"], "AgACAA==");
    let kv: &dyn etcd_kv::Kv = &*server.kv;
    let gone = etcd_kv::Keys::one("/v3/state/u2.service/m1");
    kv.delete(gone).await.unwrap();
    assert_eq!(ask("AgACAA==").await, ["u3.service", "u4.service"]);
    assert_eq!(ask("AgADAA==").await, ["u5.service"]);
    // A list that has come to its end is forgotten.
    assert_eq!(ask("AgADAA==").await, ["u5.service"]);
}
