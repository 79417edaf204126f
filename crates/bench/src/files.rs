//! How many files a process may have open: every connection is one.

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What wrk, and a server, have open beside their connections, and far more than that.
const BESIDE: u64 = 256;

/// Raises the limit so that what is started from now on may have so many connections.
///
/// # Errors
/// The hard limit is below that.
pub(crate) fn allow(connections: u32) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::from(connections) + BESIDE;
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    ensure!(
        enough(limit.maximum),
        "{connections} connections need {wanted} open files, and this shell may have {} at most (ulimit -Hn): \
         raise that, for example by LimitNOFILE= or in /etc/security/limits.conf, or take fewer connections",
        limit.maximum.unwrap_or_default()
    );
    if !enough(limit.current) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_raised_or_told() {
        let limit = getrlimit(Resource::Nofile);
        let low = Rlimit { current: Some(BESIDE + 10), maximum: limit.maximum };
        setrlimit(Resource::Nofile, low).unwrap();
        allow(10).unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(BESIDE + 10), "it was enough");
        allow(11).unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(BESIDE + 11));
        if let Some(most) = limit.maximum.and_then(|most| u32::try_from(most).ok()) {
            let told = allow(most).unwrap_err().to_string();
            assert!(told.contains("ulimit -Hn") && told.contains(&most.to_string()), "{told}");
        }
    }
}
