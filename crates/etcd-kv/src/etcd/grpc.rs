//! The little of gRPC that etcd needs: framed messages on HTTP/2 streams, status in trailers.
//!
//! A [`Channel`] is one HTTP/2 connection. It knows nothing of endpoints, deadlines or retries.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{PingPong, RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Stream and connection windows: large enough for a full reading of a big cluster to flow.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How long a live server may take to answer a ping.
const PONG: Duration = Duration::from_secs(2);
/// A single message above this is refused; etcd's own answers stay far below.
const MAX_MESSAGE: usize = 1 << 30;

/// Failure of a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The connection broke or could not take the request; `sent` tells whether it may have
    /// reached the server.
    #[error("{reason}")]
    Transport { reason: String, sent: bool },
    /// The server answered with a status other than OK.
    #[error("{message}")]
    Status { code: u32, message: String },
    /// The server does not speak gRPC.
    #[error("not an answer of etcd: {0}")]
    Malformed(String),
}

impl CallError {
    fn transport(error: &h2::Error, sent: bool) -> Self {
        // A refused stream was not processed, so it may be sent again elsewhere.
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.is_remote());
        Self::Transport {
            reason: error.to_string(),
            sent: sent && !refused,
        }
    }
}

/// One connection to one server.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    sender: SendRequest<Bytes>,
    scheme: &'static str,
    authority: String,
    pulse: Arc<Pulse>,
}

/// To find out whether the other side is still there, and to hang up if not.
#[derive(Debug)]
struct Pulse {
    ping: Mutex<Option<PingPong>>,
    driver: AbortHandle,
}

/// A message stream of the server, and our half of it.
pub(super) struct Streaming {
    recv: RecvStream,
    // Held so that dropping the value resets the stream.
    _send: SendStream<Bytes>,
    buffer: BytesMut,
}

impl Channel {
    /// HOST:PORT as given.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Speaks HTTP/2 on a connection. That is driven by a task that ends with it.
    pub(super) async fn open(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
        authority: String,
    ) -> Result<Self, CallError> {
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|e| CallError::transport(&e, false))?;
        let mut ping_pong = connection.ping_pong();
        let driver = tokio::spawn(async move {
            let ended = connection.await;
            if let Err(error) = &ended {
                tracing::debug!(%error, "etcd connection ended");
            }
            ended
        });
        // The handshake does not wait for the server. Nothing that matters is sent before it has
        // shown that it is alive and speaks the protocol.
        if let Some(ping_pong) = &mut ping_pong
            && let Err(error) = ping_pong.ping(h2::Ping::opaque()).await
        {
            // The driver has ended first, and knows better why.
            let error = match driver.await {
                Ok(Err(cause)) => cause,
                _ => error,
            };
            return Err(CallError::transport(&error, false));
        }
        Ok(Self {
            sender,
            scheme,
            authority,
            pulse: Arc::new(Pulse {
                ping: Mutex::new(ping_pong),
                driver: driver.abort_handle(),
            }),
        })
    }

    /// Hangs up if the other side does not even answer a ping, so that streams on this connection
    /// need not wait for the kernel to find out. A server that is only slow keeps them.
    pub(super) async fn hang_up_if_dead(self) {
        let mut ping = self.pulse.ping.lock().await;
        let Some(ping) = ping.as_mut() else { return };
        if !matches!(
            timeout(PONG, ping.ping(h2::Ping::opaque())).await,
            Ok(Ok(_))
        ) {
            tracing::debug!(server = self.authority, "no answer to a ping, hanging up");
            self.pulse.driver.abort();
        }
    }

    /// Sends one message and waits for one.
    pub(super) async fn unary<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
        metadata: &[(&'static str, String)],
    ) -> Result<A, CallError> {
        let mut stream = self.start(path, request, metadata, true).await?;
        match stream.next().await? {
            Some(answer) => Ok(answer),
            None => Err(CallError::Malformed("no message in the answer".into())),
        }
    }

    /// Sends one message and receives many.
    pub(super) async fn streaming<Q: Message>(
        &self,
        path: &str,
        request: &Q,
        metadata: &[(&'static str, String)],
    ) -> Result<Streaming, CallError> {
        self.start(path, request, metadata, false).await
    }

    async fn start<Q: Message>(
        &self,
        path: &str,
        request: &Q,
        metadata: &[(&'static str, String)],
        end: bool,
    ) -> Result<Streaming, CallError> {
        let mut head = Request::post(format!("{}://{}{path}", self.scheme, self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header(
                "user-agent",
                concat!("flotilla-etcd-kv/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in metadata {
            head = head.header(*name, value);
        }
        let head = head
            .body(())
            .map_err(|e| CallError::Malformed(e.to_string()))?;

        let mut sender = self
            .sender
            .clone()
            .ready()
            .await
            .map_err(|e| CallError::transport(&e, false))?;
        let (response, mut send) = sender
            .send_request(head, false)
            .map_err(|e| CallError::transport(&e, false))?;
        send.send_data(frame(request), end)
            .map_err(|e| CallError::transport(&e, true))?;

        let response = response.await.map_err(|e| CallError::transport(&e, true))?;
        let (parts, recv) = response.into_parts();
        if parts.status != http::StatusCode::OK {
            return Err(CallError::Malformed(format!(
                "HTTP status {}",
                parts.status
            )));
        }
        // An error without any message comes as status in the head.
        check_status(&parts.headers)?;
        Ok(Streaming {
            recv,
            _send: send,
            buffer: BytesMut::new(),
        })
    }
}

impl Streaming {
    /// The next message; `None` after the server ended the stream with status OK.
    pub(super) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = take_frame(&mut self.buffer)? {
                let message =
                    A::decode(message).map_err(|e| CallError::Malformed(e.to_string()))?;
                return Ok(Some(message));
            }
            match self.recv.data().await {
                Some(Ok(data)) => {
                    // Failing to give back window only matters on a connection that is gone.
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    self.buffer.put(data);
                }
                Some(Err(e)) => return Err(CallError::transport(&e, true)),
                None => {
                    let trailers = self
                        .recv
                        .trailers()
                        .await
                        .map_err(|e| CallError::transport(&e, true))?;
                    check_status(&trailers.unwrap_or_default())?;
                    return Ok(None);
                }
            }
        }
    }
}

/// Prefix of five bytes (not compressed, length), then the message.
fn frame<Q: Message>(request: &Q) -> Bytes {
    let length = request.encoded_len();
    let mut out = BytesMut::with_capacity(length + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    request
        .encode(&mut out)
        .expect("the buffer grows as needed");
    out.freeze()
}

/// Cuts the first whole message off `buffer`.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, CallError> {
    if buffer.len() < 5 {
        return Ok(None);
    }
    if buffer[0] != 0 {
        return Err(CallError::Malformed(
            "compressed message, none was asked for".into(),
        ));
    }
    let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    if length > MAX_MESSAGE {
        return Err(CallError::Malformed(format!("message of {length} bytes")));
    }
    if buffer.len() < 5 + length {
        buffer.reserve(5 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Fails if the headers carry a status other than OK. No status is fine: it may come later.
fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let Some(code) = headers.get("grpc-status") else {
        return Ok(());
    };
    let code = code.to_str().ok().and_then(|c| c.parse().ok()).unwrap_or(2);
    if code == 0 {
        return Ok(());
    }
    let message = headers
        .get("grpc-message")
        .map(|m| percent_decode(m.as_bytes()));
    Err(CallError::Status {
        code,
        message: message.unwrap_or_default(),
    })
}

/// gRPC messages are percent-encoded in headers.
fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        let hex = text
            .get(i + 1..i + 3)
            .and_then(|h| std::str::from_utf8(h).ok());
        match (text[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::LeaseRequest;

    #[test]
    fn a_frame_is_cut_only_when_whole() {
        let whole = frame(&LeaseRequest { id: 7 });
        let mut buffer = BytesMut::new();
        for byte in &whole[..whole.len() - 1] {
            buffer.put_u8(*byte);
            assert!(take_frame(&mut buffer).unwrap().is_none());
        }
        buffer.put_u8(whole[whole.len() - 1]);
        buffer.put_u8(0);
        let message = take_frame(&mut buffer).unwrap().unwrap();
        assert_eq!(LeaseRequest::decode(message).unwrap().id, 7);
        assert_eq!(&buffer[..], [0]);
    }

    #[test]
    fn compressed_and_oversized_frames_are_refused() {
        assert!(take_frame(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
        assert!(take_frame(&mut BytesMut::from(&[0, 255, 0, 0, 0][..])).is_err());
    }

    #[test]
    fn status_messages_are_percent_decoded() {
        assert_eq!(percent_decode(b"a%20b%zz%4"), "a b%zz%4");
    }
}
