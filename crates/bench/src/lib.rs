//! The experiment: servers under the same load, side by side.

mod chart;
pub mod profile;
pub mod raw;
pub mod report;
pub mod serve;
pub mod stats;
