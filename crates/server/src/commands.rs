//! `incrementer migrate`.

use crate::settings::Settings;
use crate::wire::store_url;

/// Makes the store ready and tells its id.
///
/// # Errors
/// It is away, or refuses.
pub(crate) fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let mut store = store::open(&store_url(&settings.store)?)?;
    let id = store.prepare()?;
    tracing::info!(store = %id, "the store {} is ready", settings.store);
    Ok(())
}
