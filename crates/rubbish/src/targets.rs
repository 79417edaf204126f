//! Request targets: the key in a path, the query of a page.

use engine::PageRequest;
use http_front::fuzzing::{Refused, Target, next_link, page, target as read};

use crate::bodies::{decoded, is_key};

pub(crate) fn target(bytes: &[u8]) {
    let Some(ours) = read(bytes) else { return };
    // Other forms than this one have a host to get past first: that is for the URI's own parser.
    if bytes.first() == Some(&b'/') {
        let text = bytes.split(|&byte| byte == b'#').next().unwrap_or_default();
        let mut sides = text.splitn(2, |&byte| byte == b'?');
        let path = sides.next().unwrap_or_default();
        compare(&ours, path, sides.next().unwrap_or_default());
    }
    if let Target::Page(Ok(request)) = ours {
        // Whatever was asked for, the link to the next page asks for it again.
        let next = request.after.clone().unwrap_or_else(|| "next & +%41\u{e4}".to_owned());
        let link = next_link(&request.prefix, &next, request.limit).expect("a link");
        let query = link.strip_prefix("</counters?").and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
        let query = query.expect("the link of a page");
        let expected = PageRequest { after: Some(next), ..request };
        assert_eq!(page(query), Ok(expected.clone()));
        let again = read(format!("/counters?{query}").as_bytes());
        assert_eq!(again, Some(Target::Page(Ok(expected))));
    }
}

fn compare(ours: &Target, path: &[u8], query: &[u8]) {
    match ours {
        Target::Counter(key) => {
            let name = path.strip_prefix(b"/counters/").expect("a counter's path");
            let model = match decoded(name, false) {
                None => Err(400),
                Some(key) if is_key(&key) => Ok(key),
                Some(_) => Err(422),
            };
            assert_eq!(status(key), model.as_ref().map_err(|status| *status));
        }
        Target::Page(request) => {
            assert_eq!(path, b"/counters");
            assert_eq!(status(request), page_model(query).as_ref().map_err(|status| *status));
        }
        Target::Other => assert!(path != b"/counters" && !path.starts_with(b"/counters/")),
    }
}

fn status<T>(ours: &Result<T, Refused>) -> Result<&T, u16> {
    ours.as_ref().map_err(|refused| refused.status)
}

fn page_model(query: &[u8]) -> Result<PageRequest, u16> {
    let mut members = [const { None }; 3];
    for member in query.split(|&byte| byte == b'&').filter(|member| !member.is_empty()) {
        let mut sides = member.splitn(2, |&byte| byte == b'=');
        let mut side = || decoded(sides.next().unwrap_or_default(), true).ok_or(400_u16);
        let (name, content) = (side()?, side()?);
        let at = ["prefix", "after", "limit"].iter().position(|known| *known == name).ok_or(422_u16)?;
        let fits = match at {
            2 => {
                let digits = content.trim_start_matches('0');
                !content.is_empty()
                    && content.bytes().all(|byte| byte.is_ascii_digit())
                    && (1..=4).contains(&digits.len())
                    && digits.parse().is_ok_and(|limit: u32| limit <= 1000)
            }
            _ => content.is_empty() || is_key(&content),
        };
        if members[at].replace(content).is_some() || !fits {
            return Err(422);
        }
    }
    let [prefix, after, limit] = members;
    Ok(PageRequest {
        prefix: prefix.unwrap_or_default(),
        after: after.filter(|after| !after.is_empty()),
        limit: limit.map_or(100, |limit| limit.parse().expect("digits")),
    })
}
