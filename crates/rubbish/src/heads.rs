//! Header sections: Host, Content-Type, Transfer-Encoding, Idempotency-Key, Prefer.

use http_front::fuzzing::{Body, Read, Refused, head as read};

/// The first byte chooses the version, the rest is lines of a header section.
pub(crate) fn head(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let is_http10 = first % 8 == 0;
    let lines: Vec<(&[u8], &[u8])> = rest
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            // As httparse gives them: without the white space around a value.
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
        .collect();
    let Some(ours) = read(is_http10, &lines) else { return };
    let of = |name: &str| {
        let is_it = |line: &&(&[u8], &[u8])| line.0.eq_ignore_ascii_case(name.as_bytes());
        lines.iter().filter(is_it).map(|line| line.1).collect::<Vec<_>>()
    };
    let hosts = of("host");
    let codings = of("transfer-encoding");
    let is_proper = hosts.iter().all(|host| is_host(host))
        && (hosts.len() == 1 || hosts.is_empty() && is_http10)
        && of("content-type").len() <= 1
        && codings.len() <= 1
        && codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    match ours {
        Ok(read) => {
            assert!(is_proper, "{lines:?}");
            look_at(&read, &of);
        }
        Err(refused) => assert!(!is_proper && refused.status == 400, "{lines:?}: {refused:?}"),
    }
}

fn look_at<'l>(read: &Read, of: &dyn Fn(&str) -> Vec<&'l [u8]>) {
    let is_encoded = of("content-encoding").iter().any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    let media_type = of("content-type").pop().and_then(media_type).filter(|_| !is_encoded);
    let formats = |json: Body, other: &str, body: Body| match media_type.as_deref() {
        Some("application/json") => Ok(json),
        Some(name) if other.split(' ').any(|known| known == name) => Ok(body),
        _ => Err(415),
    };
    let status = |ours: &Result<Body, Refused>| ours.clone().map_err(|refused| refused.status);
    assert_eq!(status(&read.one), formats(Body::One, "application/x-www-form-urlencoded", Body::Form));
    assert_eq!(
        status(&read.many),
        formats(Body::Array, "application/x-ndjson application/jsonl", Body::Lines)
    );
    let ids = of("idempotency-key");
    let id = match ids[..] {
        [] => Ok(None),
        [id] => idempotency_key(id).map(Some).ok_or(400),
        _ => Err(400),
    };
    let ours = read.idempotency_key.as_ref().map(Option::as_deref).map_err(|refused| refused.status);
    assert_eq!(ours, id.as_ref().map(Option::as_deref).map_err(|status| *status));
    let prefers = of("prefer").into_iter().find_map(|line| first_return(&tokens(line)));
    assert_eq!(read.wants_representation, prefers == Some(true));
}

/// A name or an address, and a port or none.
fn is_host(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else { return false };
    let is_name = |name: &str, more: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || "-._~%!$&'()*+,;=".contains(c) || more.contains(c))
    };
    let (name, port) = match host.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return false,
        Some(Some((address, port))) => (is_name(address, ":"), port),
        None => {
            let colon = host.find(':').unwrap_or(host.len());
            (is_name(&host[..colon], ""), &host[colon..])
        }
    };
    name && (port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit())))
}

/// In lower case; `None` where it has a charset that isn't UTF-8.
fn media_type(value: &[u8]) -> Option<String> {
    let value = String::from_utf8_lossy(value).to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim_ascii);
    let name = parts.next()?.to_owned();
    let fits = parts.all(|parameter| match parameter.split_once('=') {
        Some(("charset", charset)) => matches!(charset, "utf-8" | "utf8" | "\"utf-8\"" | "\"utf8\""),
        Some(_) => true,
        None => parameter != "charset",
    });
    fits.then_some(name)
}

/// A quoted string, or a text without quotes.
fn idempotency_key(value: &[u8]) -> Option<String> {
    let value = str::from_utf8(value).ok()?;
    let quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
    let id = if quoted {
        let inner = &value[1..value.len() - 1];
        // Marks of their own for what is escaped, so that what is left is not.
        let marked = inner.replace("\\\\", "\u{1}").replace("\\\"", "\u{2}");
        if marked.contains(['\\', '"']) || inner.contains(['\u{1}', '\u{2}']) {
            return None;
        }
        marked.replace('\u{1}', "\\").replace('\u{2}', "\"")
    } else if value.contains('"') {
        return None;
    } else {
        value.to_owned()
    };
    ((1..=255).contains(&id.len()) && id.bytes().all(|byte| (b'!'..=b'~').contains(&byte))).then_some(id)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Mark(u8),
    /// What can't be read, up to the end.
    Unreadable,
}

fn tokens(line: &[u8]) -> Vec<Token> {
    let text: String = line.iter().map(|&byte| char::from(byte)).collect();
    let mut rest = text.as_str();
    let mut tokens = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
        let Some(first) = rest.chars().next() else { return tokens };
        let is_word = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let length = match first {
            ',' | ';' | '=' => {
                tokens.push(Token::Mark(first as u8));
                1
            }
            '"' => {
                let mut escaped = false;
                let end = rest[1..].find(|c| match (escaped, c) {
                    (true, _) => {
                        escaped = false;
                        false
                    }
                    (false, '\\') => {
                        escaped = true;
                        false
                    }
                    (false, c) => c == '"',
                });
                let Some(end) = end else {
                    tokens.push(Token::Unreadable);
                    return tokens;
                };
                tokens.push(Token::Quoted(rest[1..=end].to_owned()));
                end + 2
            }
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                end
            }
            _ => {
                tokens.push(Token::Unreadable);
                return tokens;
            }
        };
        rest = &rest[length..];
    }
}

/// Whether the first preference called `return` asks for the representation; `None` where there is
/// none before the end of what can be read.
fn first_return(tokens: &[Token]) -> Option<bool> {
    let mut rest = tokens;
    loop {
        while let [Token::Mark(b','), tail @ ..] = rest {
            rest = tail;
        }
        let (name, value) = pair(&mut rest)?;
        while let [Token::Mark(b';'), tail @ ..] = rest {
            rest = tail;
            if !matches!(rest, [] | [Token::Mark(b';' | b','), ..]) {
                pair(&mut rest)?;
            }
        }
        if !matches!(rest, [] | [Token::Mark(b','), ..]) {
            return None;
        }
        if name.eq_ignore_ascii_case("return") {
            return Some(value.eq_ignore_ascii_case("representation"));
        }
    }
}

fn pair<'t>(rest: &mut &'t [Token]) -> Option<(&'t str, &'t str)> {
    let [Token::Word(name), tail @ ..] = *rest else { return None };
    *rest = tail;
    let [Token::Mark(b'='), tail @ ..] = tail else { return Some((name, "")) };
    *rest = tail;
    let [Token::Word(value) | Token::Quoted(value), tail @ ..] = tail else { return Some((name, "")) };
    *rest = tail;
    Some((name, value))
}
