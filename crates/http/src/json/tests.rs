//! The parsers against a plain reading of the same text.

use counter::{Decoder, Entries, Entry, Key};
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{IgnoredAny, array, lines, one};
use crate::problem::Problem;

/// What a value says, read the slow way; `None` where it is no increment.
fn model(value: &Value) -> Option<(String, i64)> {
    let object = value.as_object()?;
    let key = object.get("key")?.as_str()?;
    Key::check(key).ok()?;
    Some((key.to_owned(), object.get("value")?.as_i64()?))
}

fn unpacked(entries: &Entries) -> Vec<(String, i64)> {
    Decoder::new(entries.bytes())
        .map(|entry| match entry {
            Ok(Entry::Increment { key, value }) => (key.to_owned(), value),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn problem(problem: &Problem) -> Value {
    serde_json::from_slice(&problem.to_json()).unwrap()
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[a-z\"\\\\/\u{0}-\u{20}🦀]{0,600}".prop_map(Value::from),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("key|value|.{0,4}", inner, 0..4)
                .prop_map(|members| Value::from(Map::from_iter(members))),
        ]
    })
}

/// Mostly increments.
fn increment() -> impl Strategy<Value = Value> {
    let good = ("[^\0]{1,40}", any::<i64>()).prop_map(|(key, value)| (Value::from(key), Value::from(value)));
    let near = (anything(), scalar());
    let members = prop_oneof![9 => good, 1 => near];
    let object = (members, proptest::collection::btree_map("[a-z]{0,3}", anything(), 0..3)).prop_map(
        |((key, value), others)| {
            let mut object = Map::from_iter(others);
            object.insert("key".into(), key);
            object.insert("value".into(), value);
            Value::from(object)
        },
    );
    prop_oneof![19 => object, 1 => anything()]
}

/// Text that is nearly JSON.
fn near_json() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            Just("{\"key\":\"k\",\"value\":1}"),
            Just("\"key\""),
            Just("\"value\""),
            Just("\"\\u"),
            Just("{"),
            Just("}"),
            Just("["),
            Just("]"),
            Just(":"),
            Just(","),
            Just("\""),
            Just("-"),
            Just("0"),
            Just("1e9"),
            Just("null"),
            Just("\\"),
            Just("\n"),
            Just(" "),
            Just("é"),
        ],
        0..16,
    )
    .prop_map(|parts| parts.concat())
}

/// serde_json takes it for a floating-point number.
#[test]
fn minus_zero_is_an_integer() {
    type Parse = fn(&[u8], &mut Entries) -> Result<(), Box<Problem>>;
    let parse = |parse: Parse, text: &str| {
        let mut entries = Entries::new();
        parse(text.as_bytes(), &mut entries).map(|()| unpacked(&entries))
    };
    let object = |value: &str| format!(r#"{{"other":-0.0,"key":"-0","value":{value}}}"#);
    let zero = ("-0".to_owned(), 0);
    let [first, second] = [object("-0"), object("-7")];
    let both = [zero, ("-0".to_owned(), -7)];
    assert_eq!(parse(one, &object(" -0 ")).unwrap(), both[..1]);
    assert_eq!(parse(array, &format!("[{first},{second}]")).unwrap(), both);
    assert_eq!(parse(lines, &format!("{first}\n{second}")).unwrap(), both);

    for wrong in ["-0.0", "-0e0", "0.0", "-0.5", "\"-0\""] {
        let refused = parse(one, &object(wrong)).unwrap_err();
        assert_eq!(refused.status.as_u16(), 422, "{wrong}");
        let detail = problem(&refused)["detail"].to_string();
        assert!(detail.contains("without fraction") && !detail.contains("at line"), "{detail}");
        let refused = parse(array, &format!("[{first},{},{second}]", object(wrong))).unwrap_err();
        assert_eq!(problem(&refused)["entry"], 1, "{wrong}");
        let refused = parse(lines, &format!("{first}\n\n{}", object(wrong))).unwrap_err();
        assert_eq!((&problem(&refused)["entry"], &problem(&refused)["line"]), (&1.into(), &3.into()));
    }
    for wrong in ["-00", "- 0", "-", "+0"] {
        assert_eq!(parse(one, &object(wrong)).unwrap_err().status.as_u16(), 400, "{wrong}");
    }
}

proptest! {
    #[test]
    fn one_reads_what_the_model_reads(value in increment()) {
        let mut entries = Entries::new();
        let result = one(value.to_string().as_bytes(), &mut entries);
        match model(&value) {
            Some(expected) => {
                prop_assert!(result.is_ok());
                prop_assert_eq!(unpacked(&entries), [expected]);
            }
            None => prop_assert_eq!(result.unwrap_err().status.as_u16(), 422),
        }
    }

    #[test]
    fn many_are_read_up_to_the_first_that_is_none(values in proptest::collection::vec(increment(), 0..12)) {
        let expected: Option<Vec<_>> = values.iter().map(model).collect();
        let first_bad = values.iter().position(|value| model(value).is_none());
        let text: Vec<_> = values.iter().map(Value::to_string).collect();

        let mut from_array = Entries::new();
        let result = array(format!("[{}]", text.join(" , ")).as_bytes(), &mut from_array);
        prop_assert_eq!(result.is_ok(), expected.is_some());
        if let Err(refused) = result {
            prop_assert_eq!(refused.status.as_u16(), 422);
            prop_assert_eq!(problem(&refused)["entry"].as_u64(), first_bad.map(|at| at as u64));
        }

        let mut from_lines = Entries::new();
        let result = lines(text.join("\n").as_bytes(), &mut from_lines);
        prop_assert_eq!(result.is_ok(), expected.is_some());
        if let Err(refused) = result {
            prop_assert_eq!(problem(&refused)["entry"].as_u64(), first_bad.map(|at| at as u64));
            prop_assert_eq!(problem(&refused)["line"].as_u64(), first_bad.map(|at| at as u64 + 1));
        }
        if let Some(expected) = expected {
            prop_assert_eq!(unpacked(&from_array), expected);
            prop_assert_eq!(from_array, from_lines);
        }
    }

    #[test]
    fn what_is_not_json_is_400_and_other_json_422(text in near_json()) {
        let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        for parse in [one, array] {
            let mut entries = Entries::new();
            if let Err(refused) = parse(text.as_bytes(), &mut entries) {
                prop_assert_eq!(refused.status.as_u16(), if is_json { 422 } else { 400 });
            } else {
                prop_assert!(is_json);
            }
        }
        let _ = lines(text.as_bytes(), &mut Entries::new());
    }

    #[test]
    fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        for parse in [one, array, lines, crate::form::one] {
            let _ = parse(&bytes, &mut Entries::new());
        }
    }

    #[test]
    fn a_form_reads_as_it_was_written(key in "[^\0]{1,60}", value: i64, other in "[a-z]{3,5}") {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("value", &value.to_string())
            .append_pair("key", &key)
            .append_pair(&format!("x{other}"), &key)
            .finish();
        let mut entries = Entries::new();
        prop_assert!(crate::form::one(form.as_bytes(), &mut entries).is_ok());
        prop_assert_eq!(unpacked(&entries), [(key, value)]);
    }
}
