//! The experiment: servers under the same load, side by side.

pub mod bulk;
mod chart;
pub mod figures;
mod files;
pub mod fixed_rate;
pub mod grow;
mod load;
mod proc;
mod process;
pub mod profile;
pub mod raw;
mod record;
pub mod report;
pub mod run;
pub mod serve;
pub mod stats;
