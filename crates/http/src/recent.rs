//! The bytes of the newest header sections, for what hyper doesn't tell.
//!
//! Where a request has both Transfer-Encoding and Content-Length, hyper drops the length before
//! anybody sees it. Two servers that disagree on which of them counts are what request smuggling
//! is made of (RFC 9112, section 11.2), so such a request is looked for in the bytes themselves.
//! That is done only where there is a Transfer-Encoding; keeping the bytes costs a short copy.

/// So many bytes are kept at most. Of a longer header section only the end is seen; the
/// connection is closed after the answer then, as wherever hyper has dropped a length.
const MOST: usize = 32 << 10;
/// A buffer that has grown past this is given back when a next request begins; and of a body so
/// much is kept, since the next request may begin behind it.
const KEPT: usize = 4 << 10;

/// What came since a request began to come, and what came with the one before: the next one's
/// start may lie behind it.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    bytes: Vec<u8>,
    /// Where the newest one began.
    begun: usize,
}

impl Recent {
    /// A request begins to come.
    #[inline]
    pub(crate) fn begin(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.begun);
        if self.bytes.capacity() > KEPT {
            self.bytes.shrink_to(KEPT);
        }
        self.begun = self.bytes.len();
        self.go_on(bytes);
    }

    /// More of it comes.
    #[inline]
    pub(crate) fn go_on(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > MOST {
            self.bytes.clear();
            self.begun = 0;
        }
        self.bytes.extend_from_slice(&bytes[bytes.len().saturating_sub(MOST)..]);
    }

    /// A part of a body comes; the next request may begin behind it.
    #[inline]
    pub(crate) fn body(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.begun = 0;
        self.bytes.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
    }

    /// Whether one of the header sections has both a length and a transfer coding.
    pub(crate) fn has_length_and_coding(&self) -> bool {
        let (mut length, mut coding) = (false, false);
        self.bytes.split(|&byte| byte == b'\n').any(|line| {
            match field_name(line) {
                Some(name) => {
                    length |= name.eq_ignore_ascii_case(b"content-length");
                    coding |= name.eq_ignore_ascii_case(b"transfer-encoding");
                }
                // No field: the section has ended, or only begins.
                None => (length, coding) = (false, false),
            }
            length && coding
        })
    }
}

/// The name of a header field (a token, RFC 9110, section 5.6.2), if the line is one.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = &line[..line.iter().position(|&byte| byte == b':')?];
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    (!name.is_empty() && name.iter().all(is_token)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[u8] =
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nhost: a\r\nTRANSFER-ENCODING: chunked\r\n\r\n";

    #[test]
    fn both_are_found_however_they_arrive() {
        for at in 0..BOTH.len() {
            let mut recent = Recent::default();
            recent.begin(&BOTH[..at]);
            recent.go_on(&BOTH[at..]);
            assert!(recent.has_length_and_coding(), "split at {at}");
            // The first part came behind an earlier request, whose answer is out by now.
            let mut recent = Recent::default();
            recent.begin(b"GET / HTTP/1.1\r\n\r\n");
            recent.begin(&[b"GET / HTTP/1.1\r\n\r\n", &BOTH[..at]].concat());
            recent.begin(&BOTH[at..]);
            assert!(recent.has_length_and_coding(), "split at {at} behind another");
        }
    }

    #[test]
    fn both_are_found_behind_a_body_that_came_in_pieces() {
        for at in 0..BOTH.len() {
            let mut recent = Recent::default();
            recent.begin(b"POST / HTTP/1.1\r\ncontent-length: 20000\r\n\r\n");
            recent.body(&[b'x'; 10_000]);
            recent.body(&[&[b'x'; 10_000], &BOTH[..at]].concat());
            recent.begin(&BOTH[at..]);
            assert!(recent.has_length_and_coding(), "split at {at}");
        }
    }

    #[test]
    fn one_request_with_each_is_no_conflict() {
        let mut recent = Recent::default();
        recent.begin(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\na:bPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
        assert!(!recent.has_length_and_coding());
    }

    #[test]
    fn it_stays_small() {
        let mut recent = Recent::default();
        for _ in 0..1000 {
            recent.begin(&[b'a'; 5000]);
            recent.go_on(&[b'b'; 3000]);
            assert!(recent.bytes.len() <= MOST);
        }
        recent.begin(&[b'a'; 100]);
        recent.begin(&[b'a'; 100]);
        recent.begin(&[b'a'; 100]);
        assert!(recent.bytes.capacity() <= KEPT, "{}", recent.bytes.capacity());
    }
}
