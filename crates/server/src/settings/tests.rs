use super::load::Origin;
use super::*;

/// For each setting three values that differ from each other and from the default, as its printer
/// writes them, and one that must be refused.
const EXAMPLES: &[(&str, [&str; 3], &str)] = &[
    ("listen", ["0.0.0.0:1", "[::1]:2", "10.0.0.1:3"], "localhost"),
    ("store", ["sqlite:a.db", "sqlite:b.db", "postgres://host/c"], "mysql://host/d"),
    ("data_dir", ["/a", "b", "c/d"], ""),
    // It has but two values.
    ("ack", ["memory", "durable", "memory"], "later"),
    ("max_counters", ["1", "4294967294", "7"], "4294967295"),
    ("shutdown_timeout", ["0s", "1s", "2m"], "61m"),
    ("flush.max_updates", ["1", "100000", "7"], "0"),
    ("flush.interval", ["1ms", "1s", "1h"], "0s"),
    ("flush.timeout", ["100ms", "1s", "1h"], "99ms"),
    ("journal.max_bytes", ["256KiB", "1GiB", "1000000B"], "255KiB"),
    ("journal.keep", ["1ms", "36h", "10000h"], "10001h"),
    ("journal.segment_bytes", ["64KiB", "1MiB", "2MiB"], "63KiB"),
    ("read.max_age", ["0s", "1s", "2m"], "5"),
    ("idempotency.window", ["1s", "48h", "8760h"], "999ms"),
    ("idempotency.max_ids", ["0", "7", "100000000"], "100000001"),
    ("http.workers", ["1", "1024", "77"], "0"),
    ("http.event_loop", ["io_uring", "auto", "epoll"], "kqueue"),
    ("http.max_connections", ["1", "1000000", "7"], "many"),
    ("http.max_body_bytes", ["1KiB", "2MiB", "1GiB"], "1B"),
    ("http.max_bulk_body_bytes", ["1KiB", "2MiB", "1GiB"], "2GiB"),
    ("http.body_timeout", ["1ms", "1s", "1h"], "-1s"),
    ("http.header_timeout", ["1ms", "1s", "1h"], "1y"),
    ("log.format", ["json", "text", "json"], "xml"),
    ("log.level", ["debug", "warn,engine=trace", "off"], "loud"),
];

fn environment(pairs: &[(&str, &str)]) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn file(text: &str) -> Option<ConfigFile> {
    Some(ConfigFile { path: "it.toml".into(), text: text.into() })
}

fn toml_line(setting: &Setting, value: &str) -> String {
    let quote = if setting.bare { "" } else { "\"" };
    format!("{} = {quote}{value}{quote}\n", setting.name)
}

fn load(sources: Sources) -> (Settings, Vec<Origin>) {
    match sources.load() {
        Ok(loaded) => (loaded.settings, loaded.origins),
        Err(problems) => panic!("{problems:?}"),
    }
}

fn problems(sources: Sources) -> Vec<String> {
    match sources.load() {
        Ok(loaded) => panic!("loaded: {:?}", loaded.settings),
        Err(problems) => problems,
    }
}

fn only_problem(sources: Sources) -> String {
    let mut problems = problems(sources);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[test]
fn the_examples_cover_the_table() {
    let names: Vec<_> = TABLE.iter().map(|setting| setting.name).collect();
    assert_eq!(EXAMPLES.iter().map(|example| example.0).collect::<Vec<_>>(), names);
    let defaults = Sources::default().load().map(|loaded| loaded.settings).ok();
    for setting in TABLE {
        if let Default::Fixed(text) = setting.default {
            assert_eq!(defaults.as_ref().map(setting.show).as_deref(), Some(text), "{}", setting.name);
        }
    }
}

#[test]
fn every_setting_comes_from_flag_over_environment_over_file_over_default() {
    for (number, (setting, (_, [flag, variable, line], _))) in TABLE.iter().zip(EXAMPLES).enumerate() {
        let name = setting.variable();
        let sources = |flags: bool, environment_too: bool| Sources {
            flags: if flags { vec![(number, (*flag).to_owned())] } else { vec![] },
            environment: if environment_too { environment(&[(&name, variable)]) } else { vec![] },
            file: file(&toml_line(setting, line)),
        };
        let shown = |sources| {
            let (settings, origins) = load(sources);
            ((setting.show)(&settings), origins[number].clone())
        };
        assert_eq!(shown(sources(true, true)), ((*flag).into(), Origin::Flag(setting.flag())));
        assert_eq!(shown(sources(false, true)), ((*variable).into(), Origin::Variable(name.clone())));
        let origin = Origin::File { path: "it.toml".into(), line: 1, name: setting.name };
        assert_eq!(shown(sources(false, false)), ((*line).into(), origin));
        let (_, origin) = shown(Sources::default());
        assert!(matches!(origin, Origin::Default | Origin::Derived(_)));
    }
}

#[test]
fn a_bad_value_is_refused_from_each_source_by_a_message_that_names_it() {
    for (number, (setting, (_, _, bad))) in TABLE.iter().zip(EXAMPLES).enumerate() {
        let flags = vec![(number, (*bad).to_owned())];
        let message = only_problem(Sources { flags, ..Sources::default() });
        assert!(message.starts_with(&format!("--{}: ", setting.flag())), "{message}");

        let pairs = [(setting.variable(), bad)];
        let environment = pairs.iter().map(|(name, bad)| (name.into(), (*bad).into())).collect();
        let message = only_problem(Sources { environment, ..Sources::default() });
        assert!(message.starts_with(&format!("{}: ", setting.variable())), "{message}");

        let text = format!("\n{} = \"{bad}\"", setting.name);
        let message = only_problem(Sources { file: file(&text), ..Sources::default() });
        assert!(message.starts_with(&format!("it.toml line 2, {}: ", setting.name)), "{message}");

        let text = format!("{} = [1]", setting.name);
        let message = only_problem(Sources { file: file(&text), ..Sources::default() });
        assert!(message.contains("array can't stand here"), "{message}");
    }
}

#[test]
fn unknown_variables_are_refused_and_a_similar_one_is_offered() {
    let unknown =
        |name: &str| only_problem(Sources { environment: environment(&[(name, "x")]), ..Sources::default() });
    assert_eq!(
        unknown("INCREMENTER_FLUSH_MAX_UPDATE"),
        "INCREMENTER_FLUSH_MAX_UPDATE: there is no such variable; did you mean INCREMENTER_FLUSH_MAX_UPDATES?"
    );
    assert!(unknown("INCREMENTER_CONFIGS").contains("did you mean INCREMENTER_CONFIG?"));
    let empty = environment(&[("INCREMENTER_STORE", "")]);
    assert!(only_problem(Sources { environment: empty, ..Sources::default() }).contains("is empty"));
}

#[test]
fn variables_that_kubernetes_makes_for_a_service_of_that_name_are_no_settings() {
    let environment = environment(&[
        ("INCREMENTER_PORT", "tcp://10.0.0.1:3333"),
        ("INCREMENTER_PORT_3333_TCP", "tcp://10.0.0.1:3333"),
        ("INCREMENTER_PORT_3333_TCP_ADDR", "10.0.0.1"),
        ("INCREMENTER_SERVICE_HOST", "10.0.0.1"),
        ("INCREMENTER_SERVICE_PORT", "3333"),
        ("INCREMENTER_SERVICE_PORT_HTTP", "3333"),
    ]);
    let (settings, _) = load(Sources { environment, ..Sources::default() });
    assert_eq!(settings, load(Sources::default()).0);
}

#[test]
fn unknown_settings_of_the_file_are_refused_with_their_line() {
    let unknown = |text: &str| problems(Sources { file: file(text), ..Sources::default() });
    assert_eq!(
        unknown("ack = \"memory\"\n[flush]\nintervall = \"5s\"\n"),
        ["it.toml line 3, flush.intervall: there is no such setting; did you mean flush.interval?"]
    );
    assert!(unknown("zzz = 1")[0].starts_with("it.toml line 1, zzz: there is no such setting; take it out"));
    assert_eq!(unknown("flush = 3\n[nothing]\n[journal.max_bytes]\nx = 1").len(), 3);
}

/// Found by fuzzing: a line end in a name, or in what the PostgreSQL driver says of a URL, broke a
/// message in two.
#[test]
fn a_message_is_one_line_whatever_was_given() {
    let text = "\"a\\nb\" = 1\nstore = \"postgres://h/db?x\\u0007y=1\"";
    let messages = problems(Sources { file: file(text), ..Sources::default() });
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].starts_with("it.toml line 1, a\\nb: there is no such setting"), "{messages:?}");
    assert!(messages[1].contains("x\\u{7}y"), "{messages:?}");
}

#[test]
fn every_mistake_is_told_at_once() {
    let found = problems(Sources {
        flags: vec![(0, "nowhere".into())],
        environment: environment(&[("INCREMENTER_ACK", "never"), ("INCREMENTER_X", "1")]),
        file: file("y = 1\n[flush]\nmax_updates = 0"),
    });
    assert_eq!(found.len(), 5, "{found:?}");
}

#[test]
fn a_file_that_is_not_toml_is_refused_without_quoting_it() {
    let text = "ack = \"memory\"\nstore = \"postgres://u:secret@h/db";
    let message = only_problem(Sources { file: file(text), ..Sources::default() });
    assert!(message.starts_with("it.toml line 2: not TOML: "), "{message}");
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn database_url_counts_only_where_no_store_is_named() {
    let url = ("DATABASE_URL", "postgres://u:secret@h/db");
    let store = |sources| load(sources).0.store.to_string();
    let alone = Sources { environment: environment(&[url]), ..Sources::default() };
    assert_eq!(store(alone), "postgres://u:***@h/db");
    let named = environment(&[url, ("INCREMENTER_STORE", "sqlite:a.db")]);
    assert_eq!(store(Sources { environment: named, ..Sources::default() }), "sqlite:a.db");
    let in_file = Sources {
        environment: environment(&[url]),
        file: file("store = \"sqlite:b.db\""),
        ..Sources::default()
    };
    assert_eq!(store(in_file), "sqlite:b.db");
    let empty = Sources { environment: environment(&[("DATABASE_URL", "")]), ..Sources::default() };
    assert_eq!(store(empty), "sqlite:data/incrementer.db");
    let other = environment(&[("DATABASE_URL", "mysql://u:secret@h/db")]);
    let message = only_problem(Sources { environment: other, ..Sources::default() });
    assert!(message.starts_with("DATABASE_URL: ") && !message.contains("secret"), "{message}");
}

#[test]
fn derived_defaults_follow_what_they_are_derived_from() {
    let settings = load(Sources { file: file("data_dir = \"/var/x\""), ..Sources::default() }).0;
    assert_eq!(settings.store.to_string(), "sqlite:/var/x/incrementer.db");
    for (max_bytes, segment_bytes) in [
        ("256KiB", 64 << 10),
        ("1MiB", 256 << 10),
        ("64MiB", 16 << 20),
        ("128MiB", 32 << 20),
        ("10GiB", 32 << 20),
    ] {
        let text = format!("[journal]\nmax_bytes = \"{max_bytes}\"");
        let settings = load(Sources { file: file(&text), ..Sources::default() }).0;
        assert_eq!(settings.journal.segment_bytes, segment_bytes, "{max_bytes}");
    }
    let text = "[journal]\nmax_bytes = \"1MiB\"\nsegment_bytes = \"257KiB\"";
    let message = only_problem(Sources { file: file(text), ..Sources::default() });
    assert!(message.contains("give 256KiB or less"), "{message}");
}

#[test]
fn the_settings_in_effect_can_be_fed_back() {
    let same = |sources: Sources| {
        let loaded = match sources.load() {
            Ok(loaded) => loaded,
            Err(problems) => panic!("{problems:?}"),
        };
        let (again, _) = load(Sources { file: file(&effective(&loaded)), ..Sources::default() });
        assert_eq!(again, loaded.settings);
    };
    same(Sources::default());
    for which in 0..3 {
        let flags =
            EXAMPLES.iter().enumerate().map(|(number, example)| (number, example.1[which].to_owned()));
        let flags = flags.filter(|(number, _)| TABLE[*number].name != "journal.segment_bytes").collect();
        same(Sources { flags, ..Sources::default() });
    }
    let odd = environment(&[("INCREMENTER_DATA_DIR", "a \"b\" \\ c # d")]);
    same(Sources { environment: odd, ..Sources::default() });
}

#[test]
fn no_password_prints() {
    let environment = environment(&[("INCREMENTER_STORE", "postgres://u:secret@h/db?password=secret")]);
    let loaded = match (Sources { environment, ..Sources::default() }).load() {
        Ok(loaded) => loaded,
        Err(problems) => panic!("{problems:?}"),
    };
    for printed in [effective(&loaded), format!("{:?}", loaded.settings), format!("{:#?}", loaded.settings)] {
        assert!(printed.contains("postgres://u:***@h/db?password=***"), "{printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }
}

/// With UPDATE_SAMPLE set it writes the file instead of comparing.
#[test]
fn the_sample_file_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../incrementer.sample.toml");
    let mut defaults = load(Sources::default()).0;
    defaults.http.workers = 4;
    let wanted = print::sample_file(&defaults);
    if std::env::var_os("UPDATE_SAMPLE").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    let sample = std::fs::read_to_string(path).unwrap();
    assert!(sample == wanted, "incrementer.sample.toml is out of date: UPDATE_SAMPLE=1 cargo test sample");

    assert_eq!(load(Sources { file: file(&sample), ..Sources::default() }).0, load(Sources::default()).0);
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    let in_force: Vec<_> = sample.lines().map(uncommented).collect();
    let (settings, origins) = load(Sources { file: file(&in_force.join("\n")), ..Sources::default() });
    assert!(origins.iter().all(|origin| matches!(origin, Origin::File { .. })), "{origins:?}");
    assert_eq!(settings, defaults);
}
