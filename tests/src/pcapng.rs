//! A reader of files in the format pcapng (IETF, draft-ietf-opsawg-pcapng) that takes nothing that is not exactly as it should be: one section in
//! little-endian order, Ethernet interfaces, enhanced packets.

use anyhow::{Context, Result, bail, ensure};

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Name of the interface.
    pub interface: String,
    /// Digits behind the second in the interface's timestamps.
    pub resolution: u8,
    /// The timestamp.
    pub time: u64,
    /// Its length.
    pub length: u32,
    /// Its bytes, as far as they are there.
    pub bytes: Vec<u8>,
    /// The comment.
    pub comment: Option<String>,
    /// The flags.
    pub flags: Option<u32>,
}

/// An interface.
struct Interface {
    name: String,
    snap: u32,
    resolution: u8,
}

/// Options: code and value.
type Options<'a> = Vec<(u16, &'a [u8])>;

/// Reads a file; its packets.
///
/// # Errors
/// What is not as it should be.
pub fn read(file: &[u8]) -> Result<Vec<Frame>> {
    let mut blocks = blocks(file)?.into_iter();
    let (kind, section) = blocks.next().context("no section")?;
    ensure!(kind == 0x0a0d_0d0a, "a file begins with a section, not with block {kind:#x}");
    ensure!(word(section, 0)? == 0x1a2b_3c4d && word(section, 4)? == 1, "another byte order or version");
    options(section.get(16..).context("a short section")?)?;
    let (mut interfaces, mut frames) = (Vec::new(), Vec::new());
    for (kind, body) in blocks {
        match kind {
            1 => interfaces.push(interface(body)?),
            6 => frames.push(frame(body, &interfaces)?),
            other => bail!("block {other:#x} is not expected"),
        }
    }
    Ok(frames)
}

fn blocks(mut file: &[u8]) -> Result<Vec<(u32, &[u8])>> {
    let mut blocks = Vec::new();
    while !file.is_empty() {
        let length = word(file, 4)? as usize;
        ensure!(
            length.is_multiple_of(4) && length >= 12 && length <= file.len(),
            "a block of {length} bytes"
        );
        ensure!(word(file, length - 4)? as usize == length, "a block whose lengths differ");
        blocks.push((word(file, 0)?, &file[8..length - 4]));
        file = &file[length..];
    }
    Ok(blocks)
}

fn interface(body: &[u8]) -> Result<Interface> {
    ensure!(word(body, 0)? == 1, "link type {}", word(body, 0)?);
    let options = options(&body[8..])?;
    let find = |code: u16| options.iter().find(|(found, _)| *found == code).map(|(_, value)| *value);
    Ok(Interface {
        name: String::from_utf8(find(2).context("an interface without a name")?.to_vec())?,
        snap: word(body, 4)?,
        // Microseconds, if nothing is said.
        resolution: find(9).map_or(6, |value| value[0]),
    })
}

fn frame(body: &[u8], interfaces: &[Interface]) -> Result<Frame> {
    let interface = interfaces.get(word(body, 0)? as usize).context("a packet of no interface")?;
    let (captured, length) = (word(body, 12)?, word(body, 16)?);
    ensure!(captured <= length && captured <= interface.snap, "{captured} of {length} bytes");
    let end = 20 + captured as usize;
    let options = options(body.get(end.next_multiple_of(4)..).context("a short packet")?)?;
    let find = |code: u16| options.iter().find(|(found, _)| *found == code).map(|(_, value)| *value);
    Ok(Frame {
        interface: interface.name.clone(),
        resolution: interface.resolution,
        time: u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?),
        length,
        bytes: body[20..end].to_vec(),
        comment: find(1).map(|value| String::from_utf8(value.to_vec())).transpose()?,
        flags: find(2).map(|value| word(value, 0)).transpose()?,
    })
}

fn options(mut bytes: &[u8]) -> Result<Options<'_>> {
    let mut options = Vec::new();
    while !bytes.is_empty() {
        let head = word(bytes, 0)?;
        let (code, length) = (head as u16, (head >> 16) as usize);
        if code == 0 {
            ensure!(length == 0 && bytes.len() == 4, "something behind the end of options");
            return Ok(options);
        }
        let whole = 4 + length.next_multiple_of(4);
        ensure!(whole <= bytes.len(), "an option of {length} bytes");
        options.push((code, &bytes[4..4 + length]));
        bytes = &bytes[whole..];
    }
    ensure!(options.is_empty(), "options without an end");
    Ok(options)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("a word is missing")?;
    Ok(u32::from_le_bytes(word.try_into()?))
}
