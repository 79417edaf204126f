//! JSON by the letter of RFC 8259, read without serde_json: slow, and with no opinion on meaning.

/// What a JSON text is, as far as increments are concerned. Slices are of the text.
#[derive(Debug)]
pub(crate) enum Shape<'t> {
    /// Names and values. A name is `None` where its escapes make no Unicode (a lone surrogate).
    Object(Vec<(Option<String>, &'t str)>),
    Array(Vec<&'t str>),
    String(Option<String>),
    Number(&'t str),
    Other,
}

/// `None` where the text is no JSON.
pub(crate) fn read(text: &str) -> Option<Shape<'_>> {
    let mut reader = Reader { text, at: 0 };
    reader.space();
    let shape = match reader.peek()? {
        b'{' => Shape::Object(reader.list(b'}', |reader| {
            let name = reader.string()?;
            reader.space();
            reader.take(b':')?;
            Some((name, reader.value()?))
        })?),
        b'[' => Shape::Array(reader.list(b']', Reader::value)?),
        b'"' => Shape::String(reader.string()?),
        b'-' | b'0'..=b'9' => Shape::Number(reader.value()?),
        _ => reader.value().map(|_| Shape::Other)?,
    };
    reader.space();
    (reader.at == text.len()).then_some(shape)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// From its bracket to the one that closes it.
    fn list<T>(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(close).is_some() {
            return Some(items);
        }
        loop {
            self.space();
            items.push(item(self)?);
            self.space();
            if self.take(close).is_some() {
                return Some(items);
            }
            self.take(b',')?;
        }
    }

    /// Any value, passed over; with white space before it. Nesting has no limit.
    fn value(&mut self) -> Option<&'t str> {
        self.space();
        let start = self.at;
        let mut open = Vec::new();
        loop {
            self.space();
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    self.space();
                    if self.take(bracket + 2).is_none() {
                        open.push(bracket + 2);
                        self.name(bracket + 2)?;
                        continue;
                    }
                }
                b'"' => drop(self.string()?),
                b'-' | b'0'..=b'9' => self.number()?,
                _ => self.word()?,
            }
            // A value has ended: so do the lists that end after it.
            loop {
                let Some(&close) = open.last() else { return Some(&self.text[start..self.at]) };
                self.space();
                if self.take(close).is_none() {
                    self.take(b',')?;
                    self.name(close)?;
                    break;
                }
                open.pop();
            }
        }
    }

    /// The name before a value, in an object.
    fn name(&mut self, close: u8) -> Option<()> {
        if close == b']' {
            return Some(());
        }
        self.space();
        self.string()?;
        self.space();
        self.take(b':')
    }

    fn word(&mut self) -> Option<()> {
        let rest = &self.text[self.at..];
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word))?;
        self.at += word.len();
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// The outer `None`: no string. The inner one: a string that is no Unicode text.
    #[allow(clippy::option_option, reason = "two ways of being none")]
    fn string(&mut self) -> Option<Option<String>> {
        self.take(b'"')?;
        let mut units: Vec<u16> = Vec::new();
        loop {
            let c = self.text[self.at..].chars().next()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(String::from_utf16(&units).ok()),
                '\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    units.push(match escape {
                        b'"' | b'\\' | b'/' => u16::from(escape),
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => 10,
                        b'r' => 13,
                        b't' => 9,
                        b'u' => {
                            let digits = self.text.get(self.at..self.at + 4)?;
                            self.at += 4;
                            let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                            is_hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten()?
                        }
                        _ => return None,
                    });
                }
                '\0'..='\x1f' => return None,
                _ => units.extend_from_slice(c.encode_utf16(&mut [0; 2])),
            }
        }
    }
}
