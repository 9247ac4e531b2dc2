//! Files in the format pcapng (IETF, draft-ietf-opsawg-pcapng), as far as `weir capture` needs it: one section, Ethernet interfaces with
//! nanoseconds, packets with direction and comment.

use std::io::{self, Write};

/// Section Header Block (section 4.1).
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
/// Interface Description Block (section 4.2).
const INTERFACE_DESCRIPTION: u32 = 1;
/// Enhanced Packet Block (section 4.3).
const ENHANCED_PACKET: u32 = 6;
/// From which readers know the byte order.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

/// Options of all blocks (section 3.5).
const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
/// Options of a section.
const USER_APPLICATION: u16 = 4;
/// Options of an interface.
const INTERFACE_NAME: u16 = 2;
const TIMESTAMP_RESOLUTION: u16 = 9;
/// Options of a packet: flags, whose two lowest bits tell the direction.
const PACKET_FLAGS: u16 = 2;

/// Digits behind the second in timestamps.
const NANOSECONDS: u8 = 9;
/// Bytes of an option's value at most; longer text is cut.
const MAX_OPTION: usize = 4_096;

/// Which way a packet went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// It came.
    Inbound = 1,
    /// It left.
    Outbound = 2,
}

/// A packet to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Name of the interface.
    pub interface: &'a str,
    /// Which way it went.
    pub direction: Direction,
    /// Its length, of which not all bytes need be there.
    pub length: u32,
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// What there is to say about it.
    pub comment: &'a str,
}

/// Writes a file.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    snap: u32,
    /// In the order of their numbers.
    interfaces: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins a file: which program writes it, what it is about, and how many bytes of each packet are there at most.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(mut to: W, application: &str, comment: &str, snap: u32) -> io::Result<Self> {
        let mut body = BYTE_ORDER_MAGIC.to_le_bytes().to_vec();
        // Version 1.0, and a section of a length that is not known yet.
        body.extend_from_slice(&[1, 0, 0, 0]);
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        option(&mut body, COMMENT, comment.as_bytes());
        option(&mut body, USER_APPLICATION, application.as_bytes());
        option(&mut body, END_OF_OPTIONS, &[]);
        to.write_all(&block(SECTION_HEADER, &body))?;
        // Whoever reads at the other end of a pipe sees that it has begun.
        to.flush()?;
        Ok(Self { to, snap, interfaces: Vec::new() })
    }

    /// Writes a packet, and its interface before the first one of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface = self.interface(packet.interface)?;
        let mut body = Vec::with_capacity(64 + packet.bytes.len() + packet.comment.len());
        for word in [
            interface,
            (packet.time_ns >> 32) as u32,
            packet.time_ns as u32,
            packet.bytes.len() as u32,
            packet.length,
        ] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        padded(&mut body, packet.bytes);
        option(&mut body, COMMENT, packet.comment.as_bytes());
        option(&mut body, PACKET_FLAGS, &(packet.direction as u32).to_le_bytes());
        option(&mut body, END_OF_OPTIONS, &[]);
        self.to.write_all(&block(ENHANCED_PACKET, &body))
    }

    /// Makes sure that everything is out.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// The number of an interface, which is described if it is a new one.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.iter().position(|known| known == name) {
            return Ok(number as u32);
        }
        let mut body = ETHERNET.to_le_bytes().to_vec();
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&self.snap.to_le_bytes());
        option(&mut body, INTERFACE_NAME, name.as_bytes());
        option(&mut body, TIMESTAMP_RESOLUTION, &[NANOSECONDS]);
        option(&mut body, END_OF_OPTIONS, &[]);
        self.to.write_all(&block(INTERFACE_DESCRIPTION, &body))?;
        self.interfaces.push(name.to_owned());
        Ok(self.interfaces.len() as u32 - 1)
    }
}

/// A block: type, length, body, length again.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &length[..], body, &length].concat()
}

/// Appends an option. One without a value says nothing and is left out, but for the end of all.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    if value.is_empty() && code != END_OF_OPTIONS {
        return;
    }
    // Not within a character.
    let end =
        (0..=value.len().min(MAX_OPTION)).rev().find(|&end| end == value.len() || value[end] & 0xc0 != 0x80);
    let value = &value[..end.unwrap_or(0)];
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    padded(body, value);
}

/// Appends bytes, and zeroes up to a whole word of 32 bits.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(bytes);
    body.resize(body.len() + bytes.len().wrapping_neg() % 4, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// Blocks of a file, each checked for its form: type and body.
    fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let length = word(file, 4) as usize;
            assert!(length.is_multiple_of(4) && length >= 12, "{length}");
            assert_eq!(word(file, length - 4) as usize, length);
            blocks.push((word(file, 0), &file[8..length - 4]));
            file = &file[length..];
        }
        blocks
    }

    /// Options up to their end, behind which nothing may come.
    fn options(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
        let mut options = Vec::new();
        loop {
            let (code, length) = (word(bytes, 0) as u16, (word(bytes, 0) >> 16) as usize);
            let whole = 4 + length.next_multiple_of(4);
            assert!(bytes[4 + length..whole].iter().all(|byte| *byte == 0));
            if code == END_OF_OPTIONS {
                assert_eq!((length, bytes.len()), (0, 4));
                return options;
            }
            options.push((code, &bytes[4..4 + length]));
            bytes = &bytes[whole..];
        }
    }

    #[test]
    fn a_file_has_its_blocks_in_the_form_of_the_draft() {
        let mut writer = Writer::new(Vec::new(), "weir 1", "node a", 256).unwrap();
        let inbound = Packet {
            time_ns: 0x0102_0304_0506_0708,
            interface: "eth0",
            direction: Direction::Inbound,
            length: 1_500,
            bytes: &[1, 2, 3, 4, 5],
            comment: "web: forwarded",
        };
        let outbound = Packet {
            interface: "eth1",
            direction: Direction::Outbound,
            bytes: &[9; 8],
            comment: "",
            ..inbound
        };
        writer.packet(&inbound).unwrap();
        writer.packet(&outbound).unwrap();
        writer.packet(&inbound).unwrap();
        let file = writer.to;
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET, 1, 6, 6]);
        let (_, section) = blocks[0];
        assert_eq!((word(section, 0), word(section, 4)), (BYTE_ORDER_MAGIC, 1));
        assert_eq!(section[8..16], [0xff; 8]);
        assert_eq!(options(&section[16..]), [(1, &b"node a"[..]), (4, b"weir 1")]);
        let (_, interface) = blocks[3];
        assert_eq!((word(interface, 0), word(interface, 4)), (1, 256));
        assert_eq!(options(&interface[8..]), [(2, &b"eth1"[..]), (9, &[9])]);
        let (_, packet) = blocks[2];
        let head: Vec<u32> = (0..5).map(|index| word(packet, 4 * index)).collect();
        assert_eq!(head, [0, 0x0102_0304, 0x0506_0708, 5, 1_500]);
        assert_eq!(packet[20..28], [1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(options(&packet[28..]), [(1, &b"web: forwarded"[..]), (2, &[1, 0, 0, 0])]);
        let (_, packet) = blocks[4];
        assert_eq!((word(packet, 0), word(packet, 12)), (1, 8));
        assert_eq!(options(&packet[28..]), [(2, &[2, 0, 0, 0][..])]);
        assert_eq!(word(blocks[5].1, 0), 0);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let mut body = Vec::new();
        option(&mut body, COMMENT, "é".repeat(3_000).as_bytes());
        assert_eq!(usize::from(u16::from_le_bytes([body[2], body[3]])), MAX_OPTION);
        let mut body = Vec::new();
        option(&mut body, COMMENT, format!("a{}", "é".repeat(3_000)).as_bytes());
        assert_eq!(usize::from(u16::from_le_bytes([body[2], body[3]])), MAX_OPTION - 1);
    }
}
