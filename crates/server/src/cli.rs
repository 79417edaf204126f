//! The command line. Its flags are the table of settings; this adds commands and help.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::settings::{
    CONFIG_VARIABLE, ConfigFile, Default, Loaded, Reach, Setting, Sources, TABLE, without_passwords,
};

const ABOUT: &str = "\
A counter server. It takes increments over HTTP, makes them durable in a journal before it \
answers, and brings every total, exactly once, into a SQL table: PostgreSQL, or SQLite built in.";

const EXAMPLES: &str = "\
Examples:
  incrementer serve
      Serves on 127.0.0.1:3333; journal and an SQLite database go to ./data.

  curl -i -H 'content-type: application/json' -d '{\"key\": \"signup\", \"value\": 3}' \\
      http://127.0.0.1:3333/increment
      Counts.

  sqlite3 data/incrementer.db 'SELECT * FROM counters'
      Shows the totals, a few seconds later.

  INCREMENTER_STORE=postgres://user:password@db/counters incrementer serve --listen 0.0.0.0:3333
      The same with PostgreSQL.

Exit codes: 0 stopped as asked; 1 stopped by an error; 2 wrong settings or usage;
130 and 143 a second SIGINT or SIGTERM cut the stop short.";

const SETTINGS_HELP: &str = "\
A flag wins over its environment variable, which wins over the file that --config names, which \
wins over the default. In the file, --flush-max-updates is max_updates under [flush]. An unknown \
setting is an error. Time spans are written 250ms, 5s, 1m; sizes 64KiB, 10GiB.";

/// What the user wants done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Run the server.
    Serve,
    /// Print the settings in effect.
    PrintConfig,
    /// Make the store ready, and end.
    Migrate,
    /// Tell what the journal holds.
    Inspect { json: bool },
    /// Check every byte of the journal.
    Verify,
}

/// Why the command line leads to no task.
pub(crate) enum NoTask {
    /// Help or the version was asked for, or the usage is wrong: clap knows what to print.
    Clap(clap::Error),
    /// Sentences on what is wrong with the settings.
    Settings(Vec<String>),
}

/// Reads command line, environment and file.
pub(crate) fn parse(
    arguments: impl Iterator<Item = OsString>,
    environment: Vec<(OsString, OsString)>,
) -> Result<(Task, Loaded), NoTask> {
    let matches = command().try_get_matches_from(arguments).map_err(NoTask::Clap)?;
    let (task, matches) = task(&matches)
        .ok_or_else(|| NoTask::Clap(command().error(ErrorKind::MissingSubcommand, "a command is missing")))?;
    let file = config_file(matches, &environment).map_err(|problem| NoTask::Settings(vec![problem]))?;
    let loaded = Sources { flags: flags(matches), environment, file }.load().map_err(NoTask::Settings)?;
    Ok((task, loaded))
}

impl NoTask {
    /// Prints it, and tells the exit code.
    pub(crate) fn report(&self) -> u8 {
        match self {
            Self::Clap(error) if error.use_stderr() => {
                // Wrong arguments are quoted, and one may be a URL that lost its flag.
                let text = error.render().to_string();
                let masked = without_passwords(&text);
                let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
                if is_help || masked == text {
                    let _ = error.print();
                } else {
                    eprint!("{masked}");
                }
                2
            }
            Self::Clap(help) => {
                let _ = help.print();
                0
            }
            Self::Settings(problems) => {
                for problem in problems {
                    eprintln!("error: {problem}");
                }
                2
            }
        }
    }
}

fn task(matches: &ArgMatches) -> Option<(Task, &ArgMatches)> {
    match matches.subcommand()? {
        ("serve", matches) if matches.get_flag("print-config") => Some((Task::PrintConfig, matches)),
        ("serve", matches) => Some((Task::Serve, matches)),
        ("migrate", matches) => Some((Task::Migrate, matches)),
        ("journal", matches) => match matches.subcommand()? {
            ("inspect", matches) => Some((Task::Inspect { json: matches.get_flag("json") }, matches)),
            ("verify", matches) => Some((Task::Verify, matches)),
            _ => None,
        },
        _ => None,
    }
}

fn flags(matches: &ArgMatches) -> Vec<(usize, String)> {
    let given = |setting: &Setting| matches.try_get_one::<String>(setting.name).ok().flatten().cloned();
    TABLE.iter().enumerate().filter_map(|(number, setting)| Some((number, given(setting)?))).collect()
}

fn config_file(
    matches: &ArgMatches,
    environment: &[(OsString, OsString)],
) -> Result<Option<ConfigFile>, String> {
    let variable = environment.iter().find(|(name, _)| name == CONFIG_VARIABLE);
    let (origin, path) = match (matches.get_one::<OsString>("config"), variable) {
        (Some(path), _) => ("--config", path),
        (None, Some((_, path))) => (CONFIG_VARIABLE, path),
        (None, None) => return Ok(None),
    };
    let shown = path.to_string_lossy().into_owned();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(ConfigFile { path: shown, text })),
        Err(error) => Err(format!("{origin}: {shown:?} can't be read ({error}); name a readable TOML file")),
    }
}

/// All commands, flags and help.
pub(crate) fn command() -> Command {
    let serve = with_settings(Command::new("serve"), Reach::Serve)
        .about("Run the server")
        .long_about(
            "Run the server. It makes the store ready by itself, replays the journal, and serves until \
            SIGTERM or SIGINT, which make it answer what is in flight and flush. A second signal ends it \
            at once; what is not flushed then stays in the journal for the next start.",
        )
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Print the settings in effect as TOML, with where each comes from, and end"),
        )
        .after_long_help(EXAMPLES);
    let migrate = with_settings(Command::new("migrate"), Reach::Store)
        .about("Make the store ready: database, tables, migrations")
        .long_about(
            "Make the store ready, and end: create the database where it is missing, and bring its tables \
            up to date. serve does the same when it starts; this is for those who give the server an \
            account that may not.",
        );
    let inspect = with_settings(Command::new("inspect"), Reach::All)
        .about("Tell what the journal in the data directory holds; changes nothing")
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print NDJSON: a line for each record, then one for the summary"),
        );
    let verify = with_settings(Command::new("verify"), Reach::Store)
        .about("Check every record of the journal, and that it adds up to the table; changes nothing")
        .long_about(
            "Check every checksum and every sequence number of the journal. Where nothing was trimmed from \
            it, and no other journal was flushed into the same table, check also that it adds up to the \
            table. Exit code 1 where one of them fails. Changes nothing.",
        );
    let journal = Command::new("journal")
        .about("Look into a journal; a server may be running on it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([inspect, verify]);
    Command::new("incrementer")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(100)
        .subcommands([serve, migrate, journal])
}

fn with_settings(command: Command, command_reach: Reach) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(OsString))
        .help(format!(
            "A TOML file with settings; incrementer.sample.toml shows all [env: {CONFIG_VARIABLE}]"
        ));
    let within = |setting: &&Setting| match command_reach {
        Reach::Serve => true,
        Reach::Store => setting.reach != Reach::Serve,
        Reach::All => setting.reach == Reach::All,
    };
    let flags = TABLE.iter().filter(within).map(|setting| {
        Arg::new(setting.name)
            .long(setting.flag())
            .value_name(setting.value_name)
            .help_heading("Settings")
            .allow_hyphen_values(true)
            .help(help(setting))
    });
    command.arg(config).args(flags).after_help(SETTINGS_HELP)
}

fn help(setting: &Setting) -> String {
    let default = match setting.default {
        Default::Fixed(text) => text,
        Default::Derived { says, .. } => says,
    };
    format!("{} [default: {default}] [env: {}]", setting.doc, setting.variable())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task_of(line: &str) -> Option<Task> {
        let arguments = line.split_whitespace().map(OsString::from);
        parse(arguments, Vec::new()).ok().map(|(task, _)| task)
    }

    #[test]
    fn the_commands_are_sound() {
        command().debug_assert();
        assert_eq!(task_of("incrementer serve"), Some(Task::Serve));
        assert_eq!(task_of("incrementer serve --ack memory --print-config"), Some(Task::PrintConfig));
        assert_eq!(task_of("incrementer migrate --store sqlite:x"), Some(Task::Migrate));
        assert_eq!(task_of("incrementer journal inspect --json"), Some(Task::Inspect { json: true }));
        assert_eq!(task_of("incrementer journal verify --data-dir x"), Some(Task::Verify));
        assert_eq!(task_of("incrementer"), None);
        assert_eq!(task_of("incrementer migrate --listen 127.0.0.1:1"), None);
        assert_eq!(task_of("incrementer journal"), None);
    }

    #[test]
    fn help_explains_every_setting() {
        let mut command = command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        for setting in TABLE {
            assert!(
                help.contains(&format!("--{} <{}>", setting.flag(), setting.value_name)),
                "{}",
                setting.name
            );
            assert!(help.contains(&setting.variable()), "{}", setting.name);
        }
    }

    #[test]
    fn a_negative_number_is_a_bad_value_not_an_unknown_flag() {
        let arguments = ["incrementer", "serve", "--flush-max-updates", "-1"].map(OsString::from);
        let Err(NoTask::Settings(problems)) = parse(arguments.into_iter(), Vec::new()) else {
            panic!("it should be a matter of settings");
        };
        assert!(problems[0].starts_with("--flush-max-updates: \"-1\" is not allowed"), "{problems:?}");
    }
}
