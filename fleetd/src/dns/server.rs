//! The sockets of the DNS server: UDP and TCP on one address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Directory;
use super::message::Transport;

/// Connections at once; more have to wait.
const CONNECTIONS: usize = 64;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// Pause after a socket that could not be had, or that failed.
const PAUSE: Duration = Duration::from_secs(1);
const BACKLOG: u32 = 64;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve DNS on {address} ({transport})")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// `udp` or `tcp`.
    pub transport: &'static str,
    /// Why.
    pub source: std::io::Error,
}

/// Both sockets, bound.
#[derive(Debug)]
pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    directory: Directory,
}

impl Server {
    /// Binds both sockets. Port 0 takes one that is free for TCP.
    pub async fn bind(address: SocketAddr, directory: Directory) -> Result<Self, ListenError> {
        let failed = |transport| {
            move |source| ListenError {
                address,
                transport,
                source,
            }
        };
        let tcp = listen(address).map_err(failed("tcp"))?;
        let bound = tcp.local_addr().map_err(failed("tcp"))?;
        let udp = UdpSocket::bind(bound).await.map_err(failed("udp"))?;
        Ok(Self {
            udp,
            tcp,
            directory,
        })
    }

    /// Serves DNS there until the runtime ends, as soon as the address can be had: one that is taken
    /// or does not exist yet is tried again, and is complained of once.
    pub fn start(address: SocketAddr, directory: Directory) {
        tokio::spawn(async move {
            let mut complained = false;
            loop {
                match Self::bind(address, directory.clone()).await {
                    Ok(server) => {
                        tracing::info!(%address, "serving DNS on {address}");
                        return server.run().await;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut complained, true) {
                            tracing::error!("{}", telemetry::chain(&error));
                        }
                    }
                }
                sleep(PAUSE).await;
            }
        });
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers for ever.
    pub async fn run(self) {
        let Self {
            udp,
            tcp,
            directory,
        } = self;
        tokio::join!(
            serve_datagrams(&udp, &directory),
            serve_connections(&tcp, &directory)
        );
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted daemon need not wait for the connections of the old one.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve_datagrams(udp: &UdpSocket, directory: &Directory) {
    // Longer ones than any query are cut off, and then refused as malformed.
    let mut buffer = [0; 4096];
    loop {
        match udp.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                if let Some(reply) = directory.answer(&buffer[..length], Transport::Udp) {
                    // An answer that cannot be sent is like one that got lost: it is asked again.
                    let _ = udp.send_to(&reply, from).await;
                }
            }
            Err(error) => {
                // Also reports of the network about earlier answers; nothing is wrong with us.
                tracing::debug!(%error, "receiving a DNS query");
            }
        }
    }
}

async fn serve_connections(tcp: &TcpListener, directory: &Directory) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match tcp.accept().await {
            Ok((stream, _)) => {
                let directory = directory.clone();
                tokio::spawn(async move {
                    // The other side may leave at any point.
                    let _ = converse(stream, &directory).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a DNS connection");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Queries and answers, each behind its length, until the other side leaves or is silent.
async fn converse(mut stream: TcpStream, directory: &Directory) -> std::io::Result<()> {
    loop {
        let query = timeout(SILENCE, async {
            let length = stream.read_u16().await?;
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await?;
            std::io::Result::Ok(query)
        });
        let Ok(query) = query.await else {
            return Ok(());
        };
        let Some(reply) = directory.answer(&query?, Transport::Tcp) else {
            return Ok(());
        };
        let Ok(length) = u16::try_from(reply.len()) else {
            return Ok(());
        };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(reply);
        match timeout(SILENCE, stream.write_all(&framed)).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
}
