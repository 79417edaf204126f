//! `incrementer migrate`.

use std::path::Path;

use anyhow::Context;

use crate::settings::{Settings, StoreTarget};
use crate::wire::store_url;

/// Makes the store ready and tells its id.
///
/// # Errors
/// It is away, or refuses.
pub(crate) fn migrate(settings: &Settings) -> anyhow::Result<()> {
    make_data_dir(settings)?;
    let mut store = store::open(&store_url(&settings.store)?)?;
    let id = store.prepare()?;
    tracing::info!(store = %id, "the store {} is ready", settings.store);
    Ok(())
}

/// The data directory may be missing before the first start, and the default store lies in it.
/// Other directories are not made: their names may be mistyped.
fn make_data_dir(settings: &Settings) -> anyhow::Result<()> {
    let data_dir = settings.data_dir.as_path();
    let plain = data_dir.strip_prefix(Path::new(".")).unwrap_or(data_dir);
    match &settings.store {
        StoreTarget::Sqlite(file) if file.parent() == Some(plain) => std::fs::create_dir_all(data_dir)
            .with_context(|| format!("the data directory {} can't be made", data_dir.display())),
        _ => Ok(()),
    }
}
