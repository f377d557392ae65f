//! Frames as packets.
//!
//! A packet is four bytes (`F`, `C`, [`VERSION`], flags) and at most [`MAX_CHUNK`] bytes of payload. Flag bit 0
//! says that more packets of the same frame follow. The payloads joined are one postcard value. So no frame
//! needs a large socket buffer or a memory file, and a sender queues packets and waits for `EPOLLOUT`.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the encoding; both ends are of one build, so there is only ever one.
pub const VERSION: u8 = 1;
/// Payload of one packet at most.
pub const MAX_CHUNK: usize = 60 * 1024;
/// Size of the buffer that takes any packet.
pub const MAX_PACKET: usize = MAX_CHUNK + HEADER;
/// Payload of one frame at most: 20 000 units with long descriptions are about 4 MiB.
pub const MAX_FRAME: usize = 32 * 1024 * 1024;

const HEADER: usize = 4;
const MORE: u8 = 1;

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than a header, or not beginning with the magic.
    #[error("packet of {len} bytes is not a control packet")]
    NotAPacket {
        /// Its size.
        len: usize,
    },
    /// Another version of the encoding.
    #[error("control protocol version {found}, this build speaks {VERSION}")]
    Version {
        /// The other's version.
        found: u8,
    },
    /// The frame grows over [`MAX_FRAME`].
    #[error("control frame is larger than {MAX_FRAME} bytes")]
    TooLarge,
    /// The payload does not decode.
    #[error("control frame does not decode: {reason}")]
    Malformed {
        /// The decoder's words.
        reason: String,
    },
    /// The value does not encode.
    #[error("control frame does not encode: {reason}")]
    Unencodable {
        /// The encoder's words.
        reason: String,
    },
}

/// Encode one frame as packets, to be sent in this order.
pub fn encode<T: Serialize>(frame: &T) -> Result<Vec<Vec<u8>>, FrameError> {
    let payload = postcard::to_allocvec(frame).map_err(|error| FrameError::Unencodable {
        reason: error.to_string(),
    })?;
    if payload.len() > MAX_FRAME {
        return Err(FrameError::TooLarge);
    }
    // An empty payload (no such value today) still is one packet.
    let chunks = payload.chunks(MAX_CHUNK).collect::<Vec<_>>();
    let count = chunks.len().max(1);
    Ok((0..count)
        .map(|index| {
            let chunk = chunks.get(index).copied().unwrap_or_default();
            let flags = if index + 1 < count { MORE } else { 0 };
            let mut packet = Vec::with_capacity(HEADER + chunk.len());
            packet.extend_from_slice(&[b'F', b'C', VERSION, flags]);
            packet.extend_from_slice(chunk);
            packet
        })
        .collect())
}

/// Joins packets of one connection to frames.
#[derive(Debug, Default)]
pub struct Assembler {
    partial: Vec<u8>,
}

impl Assembler {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Take one packet; a whole frame comes out with its last packet. After an error the connection is to be
    /// closed: its state is unknown.
    pub fn push<T: DeserializeOwned>(&mut self, packet: &[u8]) -> Result<Option<T>, FrameError> {
        let (header, chunk) = packet
            .split_at_checked(HEADER)
            .ok_or(FrameError::NotAPacket { len: packet.len() })?;
        if header[..2] != *b"FC" {
            return Err(FrameError::NotAPacket { len: packet.len() });
        }
        if header[2] != VERSION {
            return Err(FrameError::Version { found: header[2] });
        }
        if self.partial.len() + chunk.len() > MAX_FRAME {
            self.partial = Vec::new();
            return Err(FrameError::TooLarge);
        }
        if header[3] & MORE != 0 {
            self.partial.extend_from_slice(chunk);
            return Ok(None);
        }
        let joined;
        let payload = if self.partial.is_empty() {
            chunk
        } else {
            self.partial.extend_from_slice(chunk);
            joined = std::mem::take(&mut self.partial);
            &joined
        };
        match postcard::take_from_bytes(payload) {
            Ok((frame, [])) => Ok(Some(frame)),
            Ok((_, rest)) => Err(FrameError::Malformed {
                reason: format!("{} bytes too many", rest.len()),
            }),
            Err(error) => Err(FrameError::Malformed {
                reason: error.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ClientFrame, JobMode, Reply, Request, ServerFrame, UnitSnapshot, Verb};

    fn join<T: DeserializeOwned>(packets: &[Vec<u8>]) -> Result<Option<T>, FrameError> {
        let mut assembler = Assembler::new();
        let mut last = None;
        for packet in packets {
            last = assembler.push(packet)?;
        }
        Ok(last)
    }

    #[test]
    fn small_frame_is_one_packet() {
        let frame = ClientFrame {
            id: 7,
            request: Request::StartUnit {
                name: "a.service".into(),
                verb: Verb::Restart,
                mode: JobMode::Replace,
            },
        };
        let packets = encode(&frame).unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!(join::<ClientFrame>(&packets).unwrap(), Some(frame));
    }

    #[test]
    fn large_frame_is_split_and_joined() {
        let mut unit = UnitSnapshot::not_found("big.service");
        unit.description = "x".repeat(3 * MAX_CHUNK + 5);
        let frame = ServerFrame::Reply {
            id: 1,
            result: Ok(Reply::Unit(Box::new(unit))),
        };
        let packets = encode(&frame).unwrap();
        assert_eq!(packets.len(), 4);
        assert!(packets.iter().all(|p| p.len() <= MAX_PACKET));
        assert_eq!(join::<ServerFrame>(&packets).unwrap(), Some(frame));
    }

    #[test]
    fn strangers_are_refused() {
        let mut assembler = Assembler::new();
        assert_eq!(
            assembler.push::<ClientFrame>(b"GE"),
            Err(FrameError::NotAPacket { len: 2 })
        );
        assert_eq!(
            assembler.push::<ClientFrame>(b"GET /"),
            Err(FrameError::NotAPacket { len: 5 })
        );
        assert_eq!(
            assembler.push::<ClientFrame>(b"FC\x09\x00"),
            Err(FrameError::Version { found: 9 })
        );
    }

    #[test]
    fn words_and_error_names_are_unique() {
        for kind in crate::ErrorKind::ALL {
            assert_eq!(
                crate::ErrorKind::from_dbus_name(kind.dbus_name()),
                Some(*kind)
            );
        }
        for verb in Verb::ALL {
            assert_eq!(Verb::from_word(verb.as_str()), Some(*verb));
        }
    }

    proptest! {
        #[test]
        fn never_panics(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let mut client = Assembler::new();
            let mut server = Assembler::new();
            for packet in &packets {
                let _ = client.push::<ClientFrame>(packet);
                let mut framed = vec![b'F', b'C', VERSION, packet.first().copied().unwrap_or(0)];
                framed.extend_from_slice(packet);
                let _ = server.push::<ServerFrame>(&framed);
            }
        }

        #[test]
        fn lists_survive(names in proptest::collection::vec(".{0,40}", 0..50), id in any::<u32>()) {
            let frame = ClientFrame { id, request: Request::ListUnitsByNames { names } };
            prop_assert_eq!(join::<ClientFrame>(&encode(&frame).unwrap()).unwrap(), Some(frame));
        }
    }
}
