//! One method call as a value.

use std::fmt;

use crate::error::Error;
use crate::wire::{Kind, Message, Value};

/// A method call and how its answer is read.
pub struct Call<T> {
    message: Message,
    read: fn(&[Value]) -> Option<T>,
}

impl<T> Call<T> {
    /// A call of `interface.member` on `path` of `destination`; `read` turns the answer's arguments to `T`.
    pub fn new(
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
        read: fn(&[Value]) -> Option<T>,
    ) -> Self {
        Self {
            message: Message::call(destination, path, interface, member, body),
            read,
        }
    }

    /// The message, to be given a serial and sent.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The call's member, for messages to people.
    pub fn member(&self) -> &str {
        &self.message.member
    }

    /// Read the answer.
    pub fn finish(&self, answer: &Message) -> Result<T, Error> {
        let member = self.message.member.clone();
        if answer.kind == Kind::Error {
            let message = answer
                .body
                .first()
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            return Err(Error::Remote {
                member,
                name: answer.error_name.clone(),
                message,
            });
        }
        (self.read)(&answer.body).ok_or_else(|| Error::UnexpectedReply {
            member,
            found: answer.signature(),
        })
    }

    pub(crate) fn with_serial(&self, serial: u32) -> Message {
        Message {
            serial,
            ..self.message.clone()
        }
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// Readers for the usual answers.
pub(crate) mod read {
    use crate::wire::Value;

    #[expect(clippy::unnecessary_wraps, reason = "has the shape of a reader")]
    pub(crate) fn nothing(_: &[Value]) -> Option<()> {
        Some(())
    }

    pub(crate) fn text(body: &[Value]) -> Option<String> {
        body.first()?.as_str().map(str::to_owned)
    }

    pub(crate) fn texts(body: &[Value]) -> Option<Vec<String>> {
        body.first()?.as_strings()
    }

    pub(crate) fn boolean(body: &[Value]) -> Option<bool> {
        body.first()?.as_bool()
    }

    pub(crate) fn number(body: &[Value]) -> Option<u32> {
        body.first()?.as_u32()
    }

    pub(crate) fn value(body: &[Value]) -> Option<Value> {
        body.first().cloned().map(Value::into_inner)
    }
}
