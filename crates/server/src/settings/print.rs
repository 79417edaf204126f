//! Settings as TOML: those in effect, and the sample file.

use std::fmt::Write;

use super::load::Loaded;
use super::table::{Setting, TABLE};

#[cfg(test)]
pub(super) use sample::sample_file;

/// The settings in effect, as a file that `--config` takes back, with the origin of each.
pub(crate) fn effective(loaded: &Loaded) -> String {
    let mut toml =
        String::from("# The settings in effect, and where each comes from. Passwords are masked.\n");
    let mut section = None;
    for (setting, origin) in TABLE.iter().zip(&loaded.origins) {
        open_section(&mut toml, setting, &mut section);
        let _ = writeln!(toml, "{} # {origin}", assignment(setting, &(setting.show)(&loaded.settings)));
    }
    toml
}

fn open_section(toml: &mut String, setting: &Setting, open: &mut Option<&'static str>) {
    let (section, _) = setting.section_and_key();
    if *open != section {
        *open = section;
        let _ = write!(toml, "\n[{}]\n", section.unwrap_or_default());
    }
}

fn assignment(setting: &Setting, value: &str) -> String {
    let (_, key) = setting.section_and_key();
    if setting.bare { format!("{key} = {value}") } else { format!("{key} = {}", quoted(value)) }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Writes what incrementer.sample.toml must be. The file lies in the repository for people to
/// read and copy; a test holds it to this.
#[cfg(test)]
mod sample {
    use super::*;
    use crate::settings::Settings;
    use crate::settings::table::Default;

    const HEAD: &str = "\
# Every setting of incrementer, with its default. Take out the # before a line to change it.
#
#   incrementer serve --config incrementer.toml
#
# A flag wins over an environment variable, which wins over this file, which wins over the
# default. Relative paths start at the directory that the server is started in.
#
# Time spans are whole numbers with ms, s, m or h; sizes are bytes, or have KiB, MiB or GiB.
";

    /// `defaults` as on a common machine, because the number of its cores is among them.
    pub(in crate::settings) fn sample_file(defaults: &Settings) -> String {
        let mut toml = HEAD.to_owned();
        let mut section = None;
        for setting in TABLE {
            open_section(&mut toml, setting, &mut section);
            toml.push('\n');
            for line in wrap(setting.doc) {
                let _ = writeln!(toml, "# {line}");
            }
            if let Default::Derived { says, .. } = setting.default {
                let _ = writeln!(toml, "# Default: {says}.");
            }
            let _ = writeln!(toml, "# Flag --{}, variable {}.", setting.flag(), setting.variable());
            let _ = writeln!(toml, "#{}", assignment(setting, &(setting.show)(defaults)));
        }
        toml
    }

    fn wrap(text: &str) -> Vec<String> {
        let mut lines = vec![String::new()];
        for word in text.split(' ') {
            match lines.last_mut() {
                Some(line) if line.is_empty() => line.push_str(word),
                Some(line) if line.len() + word.len() < 92 => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines
    }
}
