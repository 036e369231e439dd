//! Finds the heads of HTTP/1 in a peer's bytes and refuses framing that a proxy might read differently. Pure. Called by
//! [`super::strict`] for each read; it parses no more than the message boundaries.
//!
//! hyper accepts a line that ends with a bare LF, and a proxy in front may not (RFC 9112, section 2.2, allows either).
//! One of them then sees a request where the other sees none: request smuggling. The same holds for bare LFs between
//! the chunks of a body, for a head with two body lengths, and for a transfer coding other than `chunked`. All of these
//! are refused. So is a length field padded beyond [`LINE`], because it would hide where the next head begins.

use std::mem;

/// Bytes of a line that are inspected: enough for each field with a body length, unless the field is padded.
const LINE: usize = 256;

const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before or inside a head.
    Head,
    /// Inside a body with this many bytes left.
    Body(u64),
    ChunkSize,
    /// Inside a chunk with this many bytes left.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailers,
    /// Nothing more is inspected: HTTP/2, or input that hyper refuses.
    Opaque,
}

/// The body length that a head declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Length {
    #[default]
    None,
    Bytes(u64),
    Chunked,
}

#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    /// The line so far, up to [`LINE`] bytes.
    line: Vec<u8>,
    is_after_cr: bool,
    /// The head has at least one line.
    has_begun: bool,
    length: Length,
}

impl Framing {
    pub(super) fn new() -> Self {
        let length = Length::default();
        Self { place: Place::Head, line: Vec::new(), is_after_cr: false, has_begun: false, length }
    }

    /// Inspects the next bytes. Returns the position of the LF of a refused line; nothing after that LF is inspected.
    pub(super) fn inspect(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.place {
                Place::Opaque => return None,
                Place::Body(left) => self.skip(left, rest.len(), Place::Body, Place::Head),
                Place::Chunk(left) => self.skip(left, rest.len(), Place::Chunk, Place::ChunkEnd),
                Place::Head | Place::ChunkSize | Place::ChunkEnd | Place::Trailers => {
                    if self.is_refused(rest[0]) {
                        self.place = Place::Opaque;
                        return Some(at);
                    }
                    1
                }
            };
        }
        None
    }

    fn skip(&mut self, left: u64, there: usize, more: fn(u64) -> Place, after: Place) -> usize {
        let skipped = left.min(there as u64);
        self.place = if left == skipped { after } else { more(left - skipped) };
        usize::try_from(skipped).unwrap_or(there)
    }

    /// Consumes the next byte of a line. Returns whether the byte is an LF that hyper must not see.
    fn is_refused(&mut self, byte: u8) -> bool {
        let is_after_cr = mem::replace(&mut self.is_after_cr, byte == b'\r');
        match byte {
            b'\n' if !is_after_cr || self.is_cut_length() || self.is_unclear_length() => return true,
            b'\n' => self.line_ended(),
            b'\r' => {}
            other if self.line.len() < LINE => self.line.push(other),
            _ => {}
        }
        false
    }

    /// Whether this line declares a length and is longer than [`LINE`].
    fn is_cut_length(&self) -> bool {
        if self.line.len() < LINE {
            return false;
        }
        match self.place {
            Place::Head => {
                let name = self.line.split(|byte| *byte == b':').next().unwrap_or_default();
                name.eq_ignore_ascii_case(b"transfer-encoding") || name.eq_ignore_ascii_case(b"content-length")
            }
            Place::ChunkSize => !self.line.iter().any(|byte| b"; \t".contains(byte)),
            Place::Body(_) | Place::Chunk(_) | Place::ChunkEnd | Place::Trailers | Place::Opaque => false,
        }
    }

    /// Whether this field is the second body length of the head, or names a coding other than `chunked`.
    fn is_unclear_length(&self) -> bool {
        let mut parts = self.line.splitn(2, |byte| *byte == b':');
        let (Place::Head, Some(name), Some(value)) = (self.place, parts.next(), parts.next()) else { return false };
        let is_coding = name.eq_ignore_ascii_case(b"transfer-encoding");
        let is_other = is_coding && !value.trim_ascii().eq_ignore_ascii_case(b"chunked");
        let is_length = is_coding || name.eq_ignore_ascii_case(b"content-length");
        is_other || is_length && self.length != Length::None
    }

    fn line_ended(&mut self) {
        let line = mem::take(&mut self.line);
        self.place = match self.place {
            Place::Head if line.is_empty() && !self.has_begun => Place::Head,
            Place::Head if line.is_empty() => self.head_ended(),
            Place::Head if !self.has_begun && line == PREFACE_LINE => Place::Opaque,
            Place::Head => {
                self.has_begun = true;
                self.field(&line);
                Place::Head
            }
            Place::ChunkSize => chunk(&line),
            Place::ChunkEnd if line.is_empty() => Place::ChunkSize,
            Place::Trailers if line.is_empty() => Place::Head,
            Place::Trailers => Place::Trailers,
            Place::ChunkEnd | Place::Body(_) | Place::Chunk(_) | Place::Opaque => Place::Opaque,
        };
        // Keep the allocation for the next line.
        self.line = line;
        self.line.clear();
    }

    fn head_ended(&mut self) -> Place {
        self.has_begun = false;
        match mem::take(&mut self.length) {
            Length::None | Length::Bytes(0) => Place::Head,
            Length::Bytes(length) => Place::Body(length),
            Length::Chunked => Place::ChunkSize,
        }
    }

    fn field(&mut self, line: &[u8]) {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else { return };
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("transfer-encoding") {
            self.length = Length::Chunked;
        } else if name.eq_ignore_ascii_case("content-length")
            && let Ok(length) = value.parse()
        {
            self.length = Length::Bytes(length);
        }
    }
}

/// What follows a chunk-size line.
fn chunk(line: &[u8]) -> Place {
    let line = std::str::from_utf8(line).unwrap_or_default();
    let digits = line.split([';', ' ', '\t']).next().unwrap_or_default();
    match u64::from_str_radix(digits, 16) {
        Ok(0) => Place::Trailers,
        Ok(size) => Place::Chunk(size),
        Err(_) => Place::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the position of the refused LF and the place after the last piece.
    fn inspected(pieces: &[&str]) -> (Option<usize>, Place) {
        let (mut framing, mut seen, mut alone) = (Framing::new(), 0, None);
        for piece in pieces {
            alone = alone.or(framing.inspect(piece.as_bytes()).map(|at| seen + at));
            seen += piece.len();
        }
        (alone, framing.place)
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const POST: &str = "\r\nPOST / HTTP/1.1\r\nhost: x\r\nContent-Length: 6\r\n\r\na\nb\n\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n4;x=y\r\na\nb\n\r\n0\r\nt: u\r\n\r\n";

    #[test]
    fn heads_as_they_should_be_and_bodies_of_any_kind_stay_as_they_are() {
        for text in [GET, POST, CHUNKED] {
            assert_eq!(inspected(&[text]), (None, Place::Head), "{text:?}");
        }
        assert_eq!(inspected(&["POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\na"]), (None, Place::Body(2)));
    }

    #[test]
    fn a_line_that_ends_with_lf_alone_is_found_wherever_it_is() {
        for text in [
            "\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\n\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n",
        ] {
            for before in ["", GET, POST, CHUNKED] {
                let alone = text
                    .bytes()
                    .enumerate()
                    .find(|(at, byte)| *byte == b'\n' && (*at == 0 || text.as_bytes()[at - 1] != b'\r'));
                let expected = Some(before.len() + alone.unwrap().0);
                assert_eq!(inspected(&[before, text]), (expected, Place::Opaque), "{before:?} {text:?}");
            }
        }
    }

    #[test]
    fn a_length_that_is_padded_beyond_what_is_looked_at_is_refused() {
        let (blanks, zeros) = (" ".repeat(LINE), "0".repeat(LINE));
        for text in [
            format!("POST / HTTP/1.1\r\nTransfer-Encoding:{blanks}chunked\r\n"),
            format!("POST / HTTP/1.1\r\ncontent-length:{blanks}5\r\n"),
            format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{zeros}5\r\n"),
        ] {
            assert_eq!(inspected(&[&text]), (Some(text.len() - 1), Place::Opaque), "{text:?}");
        }
        let long = format!("POST / HTTP/1.1\r\nx: {zeros}\r\ntransfer-encoding: chunked\r\n\r\n0;{zeros}\r\n\r\n");
        assert_eq!(inspected(&[&long]), (None, Place::Head));
    }

    #[test]
    fn a_head_that_says_twice_how_long_its_body_is_or_in_another_coding_is_refused() {
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\ncontent-length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{fields}");
            assert_eq!(inspected(&[POST, &text]), (Some(POST.len() + text.len() - 1), Place::Opaque), "{fields}");
        }
    }

    #[test]
    fn of_http2_nothing_is_looked_at() {
        let (alone, place) = inspected(&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n"]);
        assert_eq!((alone, place), (None, Place::Opaque));
    }

    proptest! {
        #[test]
        fn it_makes_no_difference_how_the_bytes_come(
            parts in prop::collection::vec(prop_oneof![
                Just(GET), Just(POST), Just(CHUNKED), Just("GET / HTTP/1.1\r\nx: y\n\r\n"), Just("\r\n"), Just("\n"),
            ], 1..5),
            cuts in prop::collection::vec(0_usize..400, 0..8),
        ) {
            let text = parts.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            prop_assert_eq!(inspected(&pieces), inspected(&[&text]));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Framing::new().inspect(&bytes);
        }
    }
}
