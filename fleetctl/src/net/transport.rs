//! A connection to fleetd: a socket, TCP, TLS, or any of these through ssh.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::endpoint::Endpoint;
use super::ssh::{Ssh, quote};
use super::tls;
use crate::error::Failure;

/// How long making a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Both directions of a connection.
pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// How an endpoint is reached.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    pub(crate) endpoint: Endpoint,
    /// Also the way to machines; its tunnel, if it has one, is ours.
    pub(crate) ssh: Rc<Ssh>,
    tls: Option<Arc<ClientConfig>>,
    /// How long the server may be silent.
    pub(crate) silence: Duration,
    /// Whether each exchange is told on standard error.
    pub(crate) debug: bool,
    /// Who asks, where a server wants a user and password.
    pub(super) login: Option<Login>,
}

/// The value of the header that says who asks. Never shown.
#[derive(Clone)]
pub(crate) struct Login(pub(super) String);

impl Login {
    /// A user and password.
    pub(crate) fn basic(user: &str, password: &str) -> Self {
        use base64::Engine as _;
        let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        Self(format!("Basic {}", encode(format!("{user}:{password}"))))
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Transport {
    pub(crate) fn new(
        endpoint: Endpoint,
        ssh: Rc<Ssh>,
        files: &tls::Files,
        silence: Duration,
        debug: bool,
    ) -> Result<Self, Failure> {
        let wants_tls = matches!(endpoint, Endpoint::Tcp { tls: true, .. });
        let tls = if wants_tls {
            Some(tls::config(files)?)
        } else {
            None
        };
        Ok(Self {
            endpoint,
            ssh,
            tls,
            silence,
            debug,
            login: None,
        })
    }

    /// The same, for a server that wants to know who asks.
    pub(crate) fn with_login(self, login: Login) -> Self {
        Self {
            login: Some(login),
            ..self
        }
    }

    /// Connects.
    pub(crate) fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let failed = |source| Failure::Connect {
            endpoint: self.endpoint.to_string(),
            source,
        };
        match &self.endpoint {
            Endpoint::Unix(path) => {
                if self.ssh.tunnel_host().is_some() {
                    let words = ["fleetctl", "fd-forward", &quote(&path.to_string_lossy())];
                    return Ok(Box::new(self.through_ssh(&words)?));
                }
                let stream = UnixStream::connect(path).map_err(failed)?;
                stream
                    .set_read_timeout(Some(self.silence))
                    .map_err(failed)?;
                Ok(Box::new(stream))
            }
            Endpoint::Tcp { host, port, .. } => {
                if self.ssh.tunnel_host().is_some() {
                    return self.secured(host, self.through_ssh_to(host, *port)?);
                }
                let stream = dial(host, *port).map_err(failed)?;
                stream
                    .set_read_timeout(Some(self.silence))
                    .map_err(failed)?;
                self.secured(host, stream)
            }
        }
    }

    fn secured(
        &self,
        host: &str,
        stream: impl Stream + 'static,
    ) -> Result<Box<dyn Stream>, Failure> {
        let Some(config) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let session = ClientConnection::new(config.clone(), tls::server_name(host)?);
        let session = session.map_err(|error| Failure::Tls {
            file: self.endpoint.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Box::new(StreamOwned::new(session, stream)))
    }

    /// Runs a command on the tunnel's host; its input and output are the connection.
    fn through_ssh(&self, words: &[&str]) -> Result<Piped, Failure> {
        let mut ssh = self.ssh.to_tunnel(&[]).ok_or_else(|| self.no_tunnel())?;
        ssh.args(words);
        self.piped(ssh)
    }

    /// A TCP connection made by the tunnel's host.
    fn through_ssh_to(&self, host: &str, port: u16) -> Result<Piped, Failure> {
        let target = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let ssh = self.ssh.to_tunnel(&["-W", &target]);
        self.piped(ssh.ok_or_else(|| self.no_tunnel())?)
    }

    fn no_tunnel(&self) -> Failure {
        Failure::Tunnel {
            host: self.endpoint.to_string(),
            reason: "no tunnel is set".into(),
        }
    }

    fn piped(&self, mut ssh: std::process::Command) -> Result<Piped, Failure> {
        let host = self.ssh.tunnel_host().unwrap_or_default().to_owned();
        let failed = |source| Failure::Spawn {
            program: "ssh".into(),
            source,
        };
        let mut child = ssh
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Piped {
                host,
                child,
                input: Some(input),
                output,
            }),
            _ => Err(failed(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// Connects to the first address that answers.
fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A program's input and output as a connection.
struct Piped {
    host: String,
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.output.read(buffer)?;
        // ssh says on standard error why; an end that is none is an error for whoever reads.
        if count == 0 && !buffer.is_empty() {
            let status = self.child.wait()?;
            if !status.success() {
                let text = format!("the tunnel through {} ended with {status}", self.host);
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
            }
        }
        Ok(count)
    }
}

impl Write for Piped {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.input {
            Some(input) => input.write(buffer),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        drop(self.input.take());
        // Whoever drops us has what he wants; a program that goes on regardless is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
