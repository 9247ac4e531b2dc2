//! The least of DNS that a check needs: a query of one question, and whether an answer belongs to it (RFC 1035). Pure.
//!
//! Written by hand because it is a header and a name: a resolver library brings a cache, a transport and their
//! configuration, none of which a probe may have.

use crate::config::DnsCheck;

/// Bytes of the header (section 4.1.1).
const HEADER_BYTES: usize = 12;
/// `QR`: an answer. `Opcode`: 0 is a standard query.
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
/// `RD`: recursion desired.
const RD: u8 = 0x01;
const RCODE: u8 = 0x0f;
const CLASS_IN: [u8; 2] = [0, 1];

/// A query with this id.
#[must_use]
pub fn query(check: &DnsCheck, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![high, low, RD, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in check.query.split('.').filter(|label| !label.is_empty()) {
        // Labels of a configuration have at most 63 bytes.
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&check.record.to_be_bytes());
    message.extend_from_slice(&CLASS_IN);
    message
}

/// The response code of the answer to a query; `None` if the datagram is no answer to it: not an answer, another id, or
/// another question. A server that cannot even read the question may leave it out (`FORMERR`).
#[must_use]
pub fn response_code(query: &[u8], datagram: &[u8]) -> Option<u8> {
    let header = datagram.get(..HEADER_BYTES)?;
    let question = query.get(HEADER_BYTES..)?;
    if header[..2] != query[..2] || header[2] & QR == 0 || header[2] & OPCODE != 0 {
        return None;
    }
    let code = header[3] & RCODE;
    match u16::from_be_bytes([header[4], header[5]]) {
        0 => (code != 0).then_some(code),
        1 => {
            let repeated = datagram.get(HEADER_BYTES..HEADER_BYTES + question.len())?;
            // Names are compared without case (section 2.3.3); the type and the class have no letters among them that
            // this could confuse, because both of them are below 256 and not letters' codes in Weir's list.
            repeated.eq_ignore_ascii_case(question).then_some(code)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> DnsCheck {
        DnsCheck { port: 53, query: name.to_owned(), record: 28, rcode: Some(0) }
    }

    #[test]
    fn a_query_is_what_the_rfc_says() {
        let message = query(&check("www.Example.com"), 0x1234);
        let expected =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07Example\x03com\x00\x00\x1c\x00\x01";
        assert_eq!(message, expected);
        assert_eq!(query(&check(""), 1)[HEADER_BYTES..], *b"\x00\x00\x1c\x00\x01");
    }

    fn answer(code: u8) -> Vec<u8> {
        let mut message = query(&check("example.com"), 7);
        message[2] |= QR;
        message[3] = 0x80 | code;
        message.extend_from_slice(b"\xc0\x0c\x00\x1c");
        message
    }

    #[test]
    fn answers_are_recognised_by_id_question_and_flags() {
        let asked = query(&check("example.com"), 7);
        for code in 0..16 {
            assert_eq!(response_code(&asked, &answer(code)), Some(code));
        }
        let mut shouting = answer(0);
        shouting[HEADER_BYTES..HEADER_BYTES + 13].make_ascii_uppercase();
        assert_eq!(response_code(&asked, &shouting), Some(0));
        for (at, bit) in [(0, 1), (1, 1), (2, QR), (2, 0x08), (5, 2), (14, 1), (HEADER_BYTES + 14, 1)] {
            let mut other = answer(0);
            other[at] ^= bit;
            assert_eq!(response_code(&asked, &other), None, "byte {at}");
        }
        for length in 0..asked.len() {
            assert_eq!(response_code(&asked, &answer(0)[..length]), None);
        }
    }

    #[test]
    fn a_refusal_may_leave_the_question_out_and_nothing_else_may() {
        let asked = query(&check("example.com"), 7);
        let mut short = answer(1)[..HEADER_BYTES].to_vec();
        short[5] = 0;
        assert_eq!(response_code(&asked, &short), Some(1));
        short[3] = 0x80;
        assert_eq!(response_code(&asked, &short), None);
    }
}
