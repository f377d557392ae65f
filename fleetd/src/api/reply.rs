//! Answers, in parts and as HTTP.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use fleet_model::wire;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::registry::RegistryError;

/// An answer, in parts.
#[derive(Debug)]
pub(crate) enum Reply {
    /// 200 with JSON.
    Json(Vec<u8>),
    /// A status without a body.
    Empty(StatusCode),
    /// An error body.
    Error(StatusCode, String),
    /// 200 with text of another type, and headers.
    Text(&'static str, Bytes, &'static [(&'static str, &'static str)]),
    /// 200 with events, for as long as the sender lives.
    Events(mpsc::Receiver<Bytes>),
}

impl Reply {
    pub(crate) fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::Json(body),
            Err(error) => Self::Error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    pub(crate) fn error(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Error(status, message.into())
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_allowed() -> Self {
        Self::error(StatusCode::METHOD_NOT_ALLOWED, "")
    }

    pub(crate) fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, "")
    }

    pub(crate) fn failed(error: &RegistryError) -> Self {
        let text = telemetry::chain(error);
        tracing::warn!("API: {text}");
        let status = if error.is_unavailable() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self::error(status, text)
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        const JSON: &str = "application/json";
        let mut extra: &[(&str, &str)] = &[];
        let (status, kind, body) = match self {
            Self::Json(body) => (StatusCode::OK, JSON, Body::full(body)),
            Self::Empty(status) => (status, "", Body::full(Bytes::new())),
            Self::Error(status, message) => {
                let error = wire::ErrorEntity {
                    code: status.as_u16(),
                    message,
                };
                let body = serde_json::to_vec(&wire::ErrorBody { error });
                let body = body.expect("plain strings always serialise");
                (status, JSON, Body::full(body))
            }
            Self::Text(kind, body, headers) => {
                extra = headers;
                (StatusCode::OK, kind, Body::full(body))
            }
            Self::Events(receiver) => (StatusCode::OK, "text/event-stream", Body::Stream(receiver)),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let server = HeaderValue::from_static(concat!("fleetd/", env!("CARGO_PKG_VERSION")));
        headers.insert(SERVER, server);
        headers.insert(
            "x-content-type-options",
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if !kind.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        for (name, value) in extra {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        response
    }
}

/// A body: all of it, or one that goes on.
#[derive(Debug)]
pub(crate) enum Body {
    Full(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl Body {
    fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(receiver) => receiver
                .poll_recv(context)
                .map(|chunk| chunk.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
