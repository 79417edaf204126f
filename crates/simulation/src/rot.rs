//! Bit rot and lost files: damage must be noticed, unless it is in what was written last.

use counter::Seq;
use fastrand::Rng;
use journal::{Journal, Record};

use crate::disk::{Machine, SimDisk};
use crate::log::{Log, Shared, lock, note, shared};
use crate::process::Process;
use crate::running::{Settings, options};
use crate::world::Broken;

/// Damages a copy of the directory, and looks what a start makes of it.
pub(crate) fn probe(
    machine: &Shared<Machine>,
    settings: &Settings,
    rng: &mut Rng,
    log: &Shared<Log>,
) -> Result<(), Broken> {
    let clean = lock(machine).copy("clean copy".to_owned(), rng.fork());
    let mut rotten = lock(machine).copy("rotten copy".to_owned(), rng.fork());
    let on = |machine: Machine| SimDisk { machine: shared(machine), process: Process::new() };
    let (mut all, mut durable_before) = (Vec::new(), Seq::ZERO);
    let read = journal::read_all(&on(clean), &mut |_, _, record| {
        durable_before = record.durable_before();
        all.push(mark(record));
        Ok(())
    });
    // Where it can't be read, the start itself will say so.
    let Ok((_, segments)) = read else { return Ok(()) };
    let last = segments.last().map(|segment| segment.file.clone());
    let place = match (rng.u32(..8), last) {
        (0..=1, Some(last)) => rotten.lose(&last),
        (2, Some(last)) => rotten.wipe(&last),
        (3, _) => rotten.rot("begun", rng),
        _ => rotten.rot(".segment", rng),
    };
    let Some(place) = place else { return Ok(()) };
    note!(log, "damage: {place}");
    let mut left = Vec::new();
    let noticed = Journal::open(on(rotten), options(settings, None, rng)).and_then(|opened| {
        opened.journal.replay(Seq::ZERO, &mut |record| {
            left.push(mark(record));
            Ok(())
        })
    });
    if noticed.is_err() {
        note!(log, "it is noticed");
        return Ok(());
    }
    let same = left.iter().zip(&all).take_while(|(left, all)| left == all).count();
    if same < left.len() {
        return Err(format!("{place}: a changed record passes for a good one"));
    }
    let first_lost = all.get(same).map(|(seq, _)| *seq);
    if let Some(lost) = first_lost.filter(|lost| *lost <= durable_before) {
        return Err(format!("{place}: record {lost} is lost, and nobody notices"));
    }
    note!(log, "records {first_lost:?} and later are cut off");
    Ok(())
}

fn mark(record: &Record<'_>) -> (Seq, Vec<u8>) {
    (record.seq, record.payload.to_vec())
}
