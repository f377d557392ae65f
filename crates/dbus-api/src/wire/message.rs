//! Messages: header and body.

use super::decode::{DecodeError, Reader};
use super::encode::Writer;
use super::signature;
use super::value::{Value, is_bus_name, is_interface, is_member};

/// Bytes that tell how long a message is.
pub const PREFIX: usize = 16;
/// Largest message accepted. The specification allows 128 MiB; nothing that we serve comes near this.
pub const MAX_MESSAGE: usize = 32 * 1024 * 1024;
/// The caller wants no answer.
pub const FLAG_NO_REPLY: u8 = 1;
/// The caller wants no service started for it.
pub const FLAG_NO_AUTO_START: u8 = 2;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A question.
    Call,
    /// An answer.
    Return,
    /// A refusal.
    Error,
    /// News.
    Signal,
}

/// One message. Empty strings stand for absent header fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// [`FLAG_NO_REPLY`] and its kin.
    pub flags: u8,
    /// The sender's number for it, not 0.
    pub serial: u32,
    /// The object.
    pub path: String,
    /// The interface.
    pub interface: String,
    /// The method or signal.
    pub member: String,
    /// Errors: their name.
    pub error_name: String,
    /// Answers: serial of the question, 0 otherwise.
    pub reply_serial: u32,
    /// Who shall get it.
    pub destination: String,
    /// Who sent it. Not checked when parsed: systemd puts a well-known name here on its private socket.
    pub sender: String,
    /// Number of descriptors that travel with it.
    pub unix_fds: u32,
    /// The arguments.
    pub body: Vec<Value>,
}

impl Message {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            flags: 0,
            serial: 0,
            path: String::new(),
            interface: String::new(),
            member: String::new(),
            error_name: String::new(),
            reply_serial: 0,
            destination: String::new(),
            sender: String::new(),
            unix_fds: 0,
            body: Vec::new(),
        }
    }

    /// A method call.
    pub fn call(
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
    ) -> Self {
        Self {
            destination: destination.to_owned(),
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            body,
            ..Self::new(Kind::Call)
        }
    }

    /// A signal.
    pub fn signal(path: &str, interface: &str, member: &str, body: Vec<Value>) -> Self {
        Self {
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            flags: FLAG_NO_REPLY,
            body,
            ..Self::new(Kind::Signal)
        }
    }

    /// The answer to this call.
    pub fn reply(&self, body: Vec<Value>) -> Self {
        Self {
            reply_serial: self.serial,
            destination: self.sender.clone(),
            flags: FLAG_NO_REPLY,
            body,
            ..Self::new(Kind::Return)
        }
    }

    /// The refusal of this call.
    pub fn refuse(&self, name: &str, text: impl Into<String>) -> Self {
        Self {
            error_name: name.to_owned(),
            kind: Kind::Error,
            ..self.reply(vec![Value::str(text)])
        }
    }

    /// Does the caller wait for an answer?
    pub fn wants_reply(&self) -> bool {
        self.kind == Kind::Call && self.flags & FLAG_NO_REPLY == 0
    }

    /// Signature of the body.
    pub fn signature(&self) -> String {
        let mut out = String::new();
        for value in &self.body {
            value.write_signature(&mut out);
        }
        out
    }

    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
        };
        writer.bytes.extend_from_slice(&[b'l', kind, self.flags, 1]);
        writer.u32(0);
        writer.u32(self.serial);
        writer.value(&Value::Array("(yv)".to_owned(), self.fields()));
        writer.align(8);
        let start = writer.bytes.len();
        for value in &self.body {
            writer.value(value);
        }
        let size = u32::try_from(writer.bytes.len() - start).unwrap_or(u32::MAX);
        writer.bytes[4..8].copy_from_slice(&size.to_le_bytes());
        writer.bytes
    }

    fn fields(&self) -> Vec<Value> {
        let mut fields = Vec::new();
        let mut put = |code: u8, value: Value| {
            fields.push(Value::Struct(vec![
                Value::Byte(code),
                Value::variant(value),
            ]));
        };
        if !self.path.is_empty() {
            put(1, Value::path(&*self.path));
        }
        for (code, text) in [
            (2, &self.interface),
            (3, &self.member),
            (4, &self.error_name),
        ] {
            if !text.is_empty() {
                put(code, Value::str(&**text));
            }
        }
        if self.reply_serial != 0 {
            put(5, Value::U32(self.reply_serial));
        }
        for (code, text) in [(6, &self.destination), (7, &self.sender)] {
            if !text.is_empty() {
                put(code, Value::str(&**text));
            }
        }
        let signature = self.signature();
        if !signature.is_empty() {
            put(8, Value::Signature(signature));
        }
        if self.unix_fds != 0 {
            put(9, Value::U32(self.unix_fds));
        }
        fields
    }

    /// Length of the message that begins with these bytes, once [`PREFIX`] of them are there.
    pub fn length(prefix: &[u8]) -> Result<Option<usize>, DecodeError> {
        match prefix.first() {
            None => return Ok(None),
            Some(b'l' | b'B') => {}
            Some(_) => return Err(DecodeError::ByteOrder),
        }
        if prefix.len() < PREFIX {
            return Ok(None);
        }
        let big = prefix[0] == b'B';
        let body = Reader::new(prefix, 4, big).u32()? as usize;
        let fields = Reader::new(prefix, 12, big).u32()? as usize;
        let total = PREFIX
            .checked_add(fields)
            .and_then(|size| size.checked_next_multiple_of(8))
            .and_then(|size| size.checked_add(body))
            .ok_or(DecodeError::TooLarge)?;
        if total > MAX_MESSAGE {
            Err(DecodeError::TooLarge)
        } else {
            Ok(Some(total))
        }
    }

    /// Parse exactly one message.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let total = Self::length(bytes)?.ok_or(DecodeError::Truncated)?;
        if bytes.len() < total {
            return Err(DecodeError::Truncated);
        }
        if bytes.len() > total {
            return Err(DecodeError::Trailing);
        }
        if bytes[3] != 1 {
            return Err(DecodeError::Version);
        }
        let big = bytes[0] == b'B';
        let mut message = Self::new(match bytes[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err(DecodeError::BadHeader),
        });
        message.flags = bytes[2];
        message.serial = Reader::new(bytes, 8, big).u32()?;
        let mut reader = Reader::new(bytes, 12, big);
        let fields = reader.value("a(yv)", 0)?;
        reader.align(8)?;
        let signature = message.take_fields(fields)?;
        for part in signature::split(&signature).ok_or(DecodeError::BadSignature)? {
            message.body.push(reader.value(part, 0)?);
        }
        if reader.at() != bytes.len() {
            return Err(DecodeError::Trailing);
        }
        message.check()?;
        Ok(message)
    }

    fn take_fields(&mut self, fields: Value) -> Result<String, DecodeError> {
        let mut signature = String::new();
        let Value::Array(_, fields) = fields else {
            return Err(DecodeError::BadHeader);
        };
        for field in fields {
            let Value::Struct(mut pair) = field else {
                return Err(DecodeError::BadHeader);
            };
            let (Some(value), Some(Value::Byte(code))) = (pair.pop(), pair.pop()) else {
                return Err(DecodeError::BadHeader);
            };
            match (code, value.into_inner()) {
                (1, Value::Path(text)) => self.path = text,
                (2, Value::Str(text)) => self.interface = text,
                (3, Value::Str(text)) => self.member = text,
                (4, Value::Str(text)) => self.error_name = text,
                (5, Value::U32(serial)) => self.reply_serial = serial,
                (6, Value::Str(text)) => self.destination = text,
                (7, Value::Str(text)) => self.sender = text,
                (8, Value::Signature(text)) => signature = text,
                (9, Value::U32(count)) => self.unix_fds = count,
                (1..=9, _) => return Err(DecodeError::BadHeader),
                // Unknown fields are to be ignored, says the specification.
                _ => {}
            }
        }
        Ok(signature)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let names_ok = (self.interface.is_empty() || is_interface(&self.interface))
            && (self.member.is_empty() || is_member(&self.member))
            && (self.error_name.is_empty() || is_interface(&self.error_name))
            && (self.destination.is_empty() || is_bus_name(&self.destination));
        let complete = match self.kind {
            Kind::Call => !self.path.is_empty() && !self.member.is_empty(),
            Kind::Signal => {
                !self.path.is_empty() && !self.member.is_empty() && !self.interface.is_empty()
            }
            Kind::Return => self.reply_serial != 0,
            Kind::Error => self.reply_serial != 0 && !self.error_name.is_empty(),
        };
        if names_ok && complete && self.serial != 0 {
            Ok(())
        } else {
            Err(DecodeError::BadHeader)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Message {
        let mut message = Message::call(
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "StartTransientUnit",
            vec![
                Value::str("run-1.scope"),
                Value::str("fail"),
                Value::array(
                    "(sv)",
                    vec![Value::Struct(vec![
                        Value::str("PIDs"),
                        Value::variant(Value::array("u", vec![Value::U32(7)])),
                    ])],
                ),
                Value::array("(sa(sv))", vec![]),
            ],
        );
        message.serial = 3;
        message
    }

    #[test]
    fn round_trip() {
        let message = sample();
        let bytes = message.encode();
        assert_eq!(Message::length(&bytes), Ok(Some(bytes.len())));
        assert_eq!(message.signature(), "ssa(sv)a(sa(sv))");
        assert_eq!(Message::parse(&bytes), Ok(message));
    }

    #[test]
    fn well_known_sender_is_accepted() {
        let mut message = sample();
        message.sender = "org.freedesktop.systemd1".to_owned();
        assert!(Message::parse(&message.encode()).is_ok());
    }

    #[test]
    fn bad_input_is_named() {
        let good = sample().encode();
        let mut other = good.clone();
        other[0] = b'x';
        assert_eq!(Message::parse(&other), Err(DecodeError::ByteOrder));
        let mut other = good.clone();
        other[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Message::parse(&other), Err(DecodeError::TooLarge));
        assert_eq!(
            Message::parse(&good[..good.len() - 1]),
            Err(DecodeError::Truncated)
        );
        assert_eq!(
            Message::parse(&[&good[..], b"x"].concat()),
            Err(DecodeError::Trailing)
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::Byte),
            any::<bool>().prop_map(Value::Bool),
            any::<i16>().prop_map(Value::I16),
            any::<u16>().prop_map(Value::U16),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            any::<u64>().prop_map(Value::U64),
            "[^\0]{0,12}".prop_map(Value::Str),
            "(/[a-z0-9_]{1,5}){1,3}".prop_map(Value::Path),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                inner.clone().prop_map(Value::variant),
                proptest::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
                (inner.clone(), 0_usize..4)
                    .prop_map(|(item, count)| Value::Array(item.signature(), vec![item; count])),
                inner.prop_map(|item| Value::dict([("key", item)])),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_survive(body in proptest::collection::vec(value(), 0..4), serial in 1_u32..) {
            let mut message = sample();
            message.serial = serial;
            message.body = body;
            prop_assume!(message.signature().len() < 200);
            prop_assert_eq!(Message::parse(&message.encode()), Ok(message));
        }

        #[test]
        fn damage_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = sample().encode();
            let index = at.index(bytes.len());
            bytes[index] = byte;
            let _ = Message::parse(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = Message::parse(&bytes);
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::parse(&bytes);
        }
    }
}
