//! The proxy of `ETCD_PROXY=on`: connections to this machine's client ports are passed on to a member of the cluster.
//!
//! Which members there are is asked of the peers (`GET /members` on the peer port), at the start and whenever no known
//! member takes a connection. Nothing runs while nothing is connected.
//!
//! The bytes are not looked into, so everything that a member serves works through it. (`etcd gateway` does the same, but
//! never learns of members that come later, and takes ten times the memory.)

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::plan::host_port;

const CONNECT: Duration = Duration::from_secs(2);
const ASK: Duration = Duration::from_secs(5);
/// An answer of `/members` beyond this is refused.
const ANSWER_MAX: u64 = 1 << 20;

/// The proxy cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A port is taken, or the address is not this machine's.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// No peer names a member.
    #[error("no peer tells the members of the cluster: {0}")]
    Members(String),
}

/// What is known of the cluster.
#[derive(Debug)]
struct Cluster {
    peers: Vec<String>,
    /// `HOST:PORT` of clients' ports; the one that worked last is first.
    members: Mutex<Vec<String>>,
    /// Only one asks at a time.
    asking: tokio::sync::Mutex<()>,
}

/// Listens, calls `ready`, and passes connections on for ever. The cluster may be away: whoever connects then waits for
/// it as long as asking takes.
pub async fn run(
    listen: &[String],
    peers: Vec<String>,
    ready: impl FnOnce(),
) -> Result<std::convert::Infallible, ProxyError> {
    let cluster = Arc::new(Cluster {
        peers,
        members: Mutex::default(),
        asking: tokio::sync::Mutex::default(),
    });
    let mut listeners = Vec::new();
    for address in listen {
        let listener = TcpListener::bind(address.as_str())
            .await
            .map_err(|source| ProxyError::Listen {
                address: address.clone(),
                source,
            })?;
        listeners.push(listener);
    }
    match cluster.ask().await {
        Ok(members) => tracing::info!(members = members.join(" "), "the cluster answers"),
        Err(err) => tracing::warn!("{err}; asking again when somebody connects"),
    }
    for listener in listeners {
        tokio::spawn(accept(listener, cluster.clone()));
    }
    ready();
    std::future::pending().await
}

async fn accept(listener: TcpListener, cluster: Arc<Cluster>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let cluster = cluster.clone();
                tokio::spawn(async move { pass(client, &cluster).await });
            }
            Err(err) => {
                // Out of descriptors: others must end before more can begin.
                tracing::warn!("failed to accept a connection: {err}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn pass(mut client: TcpStream, cluster: &Cluster) {
    match cluster.connect().await {
        Ok(mut member) => {
            // Small messages go back and forth; waiting to fill packets would cost a delay each.
            let _ = (client.set_nodelay(true), member.set_nodelay(true));
            // An end on either side is the ordinary end.
            let _ = copy_bidirectional(&mut client, &mut member).await;
        }
        Err(err) => tracing::warn!("refused a connection: {err}"),
    }
}

impl Cluster {
    fn known(&self) -> Vec<String> {
        self.members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A connection to a member that takes one.
    async fn connect(&self) -> Result<TcpStream, ProxyError> {
        let known = self.known();
        if let Some(stream) = self.try_each(&known).await {
            return Ok(stream);
        }
        let members = self.ask().await?;
        self.try_each(&members).await.ok_or_else(|| {
            ProxyError::Members(format!("none of {} takes a connection", members.join(" ")))
        })
    }

    async fn try_each(&self, members: &[String]) -> Option<TcpStream> {
        for member in members {
            if let Ok(Ok(stream)) =
                tokio::time::timeout(CONNECT, TcpStream::connect(member.as_str())).await
            {
                let mut known = self.members.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(at) = known.iter().position(|m| m == member) {
                    known.swap(0, at);
                }
                return Some(stream);
            }
        }
        None
    }

    /// Asks the peers for the members, and remembers them.
    async fn ask(&self) -> Result<Vec<String>, ProxyError> {
        let before = self.known();
        let _one = self.asking.lock().await;
        // Somebody else may have asked while we waited.
        let now = self.known();
        if now != before {
            return Ok(now);
        }
        let mut reasons = Vec::new();
        for peer in &self.peers {
            let answer = tokio::time::timeout(ASK, fetch(peer)).await;
            match answer
                .map_err(|_| "no answer in time".to_owned())
                .and_then(|a| a)
            {
                Ok(members) => {
                    self.members
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clone_from(&members);
                    return Ok(members);
                }
                Err(reason) => reasons.push(format!("{peer}: {reason}")),
            }
        }
        Err(ProxyError::Members(reasons.join("; ")))
    }
}

/// Asks one peer.
async fn fetch(peer: &str) -> Result<Vec<String>, String> {
    let address = host_port("peer", peer).map_err(|err| err.to_string())?;
    if !peer.starts_with("http://") {
        return Err("only http:// is asked for the members".to_owned());
    }
    let ask = async {
        let mut stream = TcpStream::connect(address.as_str()).await?;
        let request =
            format!("GET /members HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // etcd 3.5 answers but leaves the connection open, whatever it was asked.
        while !is_whole(&answer) && (answer.len() as u64) < ANSWER_MAX {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        Ok::<_, io::Error>(answer)
    };
    members(&ask.await.map_err(|err| err.to_string())?)
}

/// Whether the answer has come to the length that it announces.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| answer.len() >= end.saturating_add(4).saturating_add(length))
}

/// Reads the answer: `HOST:PORT` of every member's client URLs.
fn members(answer: &[u8]) -> Result<Vec<String>, String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or("the answer is not HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("answers with status {status}"));
    }
    let list: serde_json::Value =
        serde_json::from_str(body).map_err(|err| format!("not JSON: {err}"))?;
    let urls = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|m| m["clientURLs"].as_array())
        .flatten();
    let members: Vec<String> = urls
        .filter_map(|url| host_port("clientURLs", url.as_str()?).ok())
        .collect();
    if members.is_empty() {
        Err("names no member that clients can reach".to_owned())
    } else {
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_at_its_announced_length() {
        assert!(is_whole(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n[]"));
        assert!(!is_whole(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n[]"));
        assert!(!is_whole(b"HTTP/1.0 200 OK\r\nContent-Type: x\r\n\r\n[]"));
        assert!(!is_whole(b"HTTP/1.0 200 OK\r\n"));
    }

    #[test]
    fn answers_of_peers_are_read() {
        let answer = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n[{\"id\":1,\"peerURLs\":[\"http://a:2380\"],\
                       \"name\":\"a\",\"clientURLs\":[\"http://10.0.0.1:2379\",\"http://10.0.0.1:4001\"]},{\"id\":2,\"peerURLs\":[]}]\n";
        assert_eq!(
            members(answer),
            Ok(vec!["10.0.0.1:2379".into(), "10.0.0.1:4001".into()])
        );
        for bad in [
            &b""[..],
            b"HTTP/1.0 404 Not Found\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n[]",
            b"HTTP/1.0 200 OK\r\n\r\nx",
        ] {
            assert!(members(bad).is_err());
        }
    }
}
