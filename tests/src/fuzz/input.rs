//! Inputs of fuzz targets: a data plane in some state, and a few frames that arrive one after the other.

use crate::golden::{cases, numbers::Numbers};

/// Most frames of an input; what follows is not looked at.
const FRAMES_MAX: usize = 4;
/// Longest frame, so that a test run has room for what is put in front.
const FRAME_MAX: usize = 2048;
/// Bytes of the number that says how long a frame is.
const LENGTH_BYTES: usize = 2;
/// Most bytes that are changed at once to damage an input, and how far from its start.
const DAMAGES_MAX: usize = 6;
const DAMAGED_BYTES: usize = 160;

/// An input, decoded.
///
/// The first byte chooses the state; then come frames, each behind its length in two bytes, little end first. A length that
/// goes beyond the end stops at the end, so every sequence of bytes means something.
#[derive(Debug, PartialEq, Eq)]
pub struct Input<'a> {
    /// Chooses the state of the data plane; see the targets.
    pub state: u8,
    /// The frames in the order in which they arrive.
    pub frames: Vec<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// Reads an input.
    #[must_use]
    pub fn decode(data: &'a [u8]) -> Self {
        let Some((&state, mut rest)) = data.split_first() else {
            return Self { state: 0, frames: Vec::new() };
        };
        let mut frames = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() {
            let length = usize::from(u16::from_le_bytes(*length)).min(FRAME_MAX).min(after.len());
            let (frame, next) = after.split_at(length);
            frames.push(frame);
            rest = next;
            if frames.len() == FRAMES_MAX {
                break;
            }
        }
        Self { state, frames }
    }

    /// The bytes that are read as this input.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut data = vec![self.state];
        for frame in &self.frames {
            data.extend((frame.len() as u16).to_le_bytes());
            data.extend_from_slice(frame);
        }
        data
    }
}

/// Inputs to begin with: every golden packet, and what it came out as, alone and in short sequences.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let frames: Vec<Vec<u8>> = cases::all()
        .into_iter()
        .flat_map(|case| [Some(case.input), case.expected.frame().map(<[u8]>::to_vec)])
        .flatten()
        .filter(|frame| frame.len() <= FRAME_MAX)
        .collect();
    let one = |(i, frame): (usize, &Vec<u8>)| Input { state: i as u8, frames: vec![frame] }.encode();
    let alone = frames.iter().enumerate().map(one);
    let sequence = |(i, frames): (usize, &[Vec<u8>])| {
        Input { state: i as u8, frames: frames.iter().map(Vec::as_slice).collect() }.encode()
    };
    alone.chain(frames.windows(3).enumerate().map(sequence)).collect()
}

/// One of the inputs with a few bytes changed.
#[must_use]
pub fn damaged(inputs: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut data = inputs[numbers.below(inputs.len())].clone();
    if let Some(state) = data.first_mut() {
        *state = numbers.word() as u8;
    }
    for _ in 0..=numbers.below(DAMAGES_MAX) {
        let at = numbers.below(data.len().min(DAMAGED_BYTES));
        data[at] = numbers.word() as u8;
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_of_bytes_is_an_input() {
        assert_eq!(Input::decode(&[]), Input { state: 0, frames: Vec::new() });
        assert_eq!(Input::decode(&[7, 1]), Input { state: 7, frames: Vec::new() });
        assert_eq!(Input::decode(&[7, 2, 0, 1, 2, 9, 0, 3]).frames, [&[1, 2][..], &[3]]);
        let many = [0; 100];
        assert_eq!(Input::decode(&many).frames.len(), FRAMES_MAX);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let input = Input { state: 3, frames: vec![b"abc", b"", b"d"] };
        assert_eq!(Input::decode(&input.encode()), input);
    }

    #[test]
    fn there_are_seeds() {
        assert!(seeds().len() > cases::all().len());
        assert!(seeds().iter().all(|seed| Input::decode(seed).encode() == *seed));
    }
}
