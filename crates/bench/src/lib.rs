//! The experiment: servers under the same load, side by side.

mod chart;
mod files;
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
