//! A disk that keeps apart what a process sees and what survives power loss.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use fastrand::Rng;
use journal::{BLOCK, Disk, DiskFile, Job};

use crate::log::{Log, Shared, lock, note};
use crate::process::Process;
use crate::sabotage::Sabotage;

/// What a disk writes wholly or not at all, in bytes.
const SECTOR: usize = 512;

/// How often things fail, out of 10,000 calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskFaults {
    pub(crate) sync: u32,
    pub(crate) write: u32,
    pub(crate) names: u32,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What reads return.
    seen: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    /// Written since the last sync, sector by sector, in order.
    pending: Vec<(usize, Vec<u8>)>,
    /// Sectors that a failed sync left looking written without being so.
    forgotten: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

/// One directory, and the power that may fail under it.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    label: String,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<NameChange>,
    pub(crate) faults: DiskFaults,
    pub(crate) full: bool,
    /// Whether some call failed in a way that has to end the process.
    pub(crate) failed: bool,
    sabotage: Option<Sabotage>,
    rng: Rng,
    log: Shared<Log>,
}

impl Machine {
    pub(crate) fn new(label: String, rng: Rng, sabotage: Option<Sabotage>, log: Shared<Log>) -> Self {
        Self {
            label,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            faults: DiskFaults::default(),
            full: false,
            failed: false,
            sabotage,
            rng,
            log,
        }
    }

    /// The same files on another disk, all of them durable.
    pub(crate) fn copy(&self, label: String, rng: Rng) -> Self {
        let mut copy = Self { label, rng, faults: DiskFaults::default(), full: false, ..self.clone() };
        for inode in &mut copy.inodes {
            *inode = Inode { durable: inode.seen.clone(), seen: inode.seen.clone(), ..Inode::default() };
        }
        copy.durable_names = copy.names.clone();
        copy.changes.clear();
        copy
    }

    /// The power fails: of what was not synced, any part survives.
    pub(crate) fn lose_power(&mut self) {
        // The extremes are the likeliest to find something, so they are not left to chance.
        let keep = [0, 100, 20, 50, 80][self.rng.usize(..5)];
        note!(self.log, "{}: power loss, {keep}% of what is not synced survives", self.label);
        for inode in &mut self.inodes {
            let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
            for (sector, bytes) in std::mem::take(&mut inode.pending) {
                versions.entry(sector).or_default().push(bytes);
            }
            for (sector, mut versions) in versions {
                if self.rng.u32(..100) < keep {
                    let last = versions.len() - 1;
                    let chosen = if keep == 100 { last } else { self.rng.usize(..=last) };
                    inode.put_durable(sector, &versions.swap_remove(chosen));
                }
            }
            inode.forgotten.clear();
            inode.seen.clone_from(&inode.durable);
        }
        for change in std::mem::take(&mut self.changes) {
            if self.rng.u32(..100) >= keep {
                continue;
            }
            match change {
                NameChange::Link(name, inode) => drop(self.durable_names.insert(name, inode)),
                NameChange::Unlink(name) => drop(self.durable_names.remove(&name)),
                NameChange::Rename(from, to, inode) => {
                    self.durable_names.remove(&from);
                    self.durable_names.insert(to, inode);
                }
            }
        }
        self.names.clone_from(&self.durable_names);
    }

    /// Pages that a failed sync left behind may leave the memory at any time.
    pub(crate) fn evict(&mut self) {
        for inode in &mut self.inodes {
            for sector in std::mem::take(&mut inode.forgotten) {
                if self.rng.bool() {
                    let range = inode.range(sector);
                    let (from, to) = (&inode.durable[range.clone()], &mut inode.seen[range]);
                    to.copy_from_slice(from);
                } else {
                    inode.forgotten.insert(sector);
                }
            }
        }
    }

    /// How many bytes the files have whose names end so.
    pub(crate) fn bytes_of(&self, suffix: &str) -> u64 {
        let files = self.names.iter().filter(|(name, _)| name.ends_with(suffix));
        files.map(|(_, &inode)| self.inodes[inode].seen.len() as u64).sum()
    }

    /// Flips one bit of a file with such a name; says where.
    pub(crate) fn rot(&mut self, suffix: &str, rng: &mut Rng) -> Option<String> {
        let names: Vec<_> = self.names.iter().filter(|(name, _)| name.ends_with(suffix)).collect();
        let (name, &inode) = *rng.choice(&names)?;
        let bytes = &mut self.inodes[inode].seen;
        // Not in the zeros behind the last record, most of the time.
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(bytes.len(), |last| last + 1);
        let at = rng.usize(..used.max(1));
        *bytes.get_mut(at)? ^= 1 << rng.u32(..8);
        Some(format!("a bit of {name} flips at {at}"))
    }

    /// A file is gone.
    pub(crate) fn lose(&mut self, name: &str) -> Option<String> {
        self.names.remove(name).map(|_| format!("{name} is gone"))
    }

    /// The first page of a file is zeros.
    pub(crate) fn wipe(&mut self, name: &str) -> Option<String> {
        let inode = *self.names.get(name)?;
        self.inodes[inode].seen.iter_mut().take(4096).for_each(|byte| *byte = 0);
        Some(format!("the first page of {name} is wiped"))
    }

    fn fails(&mut self, rate: u32, what: &str, name: &str) -> io::Result<()> {
        if rate > 0 && self.rng.u32(..10_000) < rate {
            note!(self.log, "{}: {what} of {name} fails", self.label);
            return Err(io::Error::other("simulated: input/output error"));
        }
        Ok(())
    }
}

impl Inode {
    fn range(&self, sector: usize) -> std::ops::Range<usize> {
        let from = sector * SECTOR;
        from..(from + SECTOR).min(self.seen.len())
    }

    fn put_durable(&mut self, sector: usize, bytes: &[u8]) {
        let from = sector * SECTOR;
        if self.durable.len() < from + bytes.len() {
            self.durable.resize(from + bytes.len(), 0);
        }
        self.durable[from..from + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes as many sectors as `sectors` allows.
    fn write(&mut self, bytes: &[u8], offset: usize, sectors: usize) {
        let end = (offset + bytes.len()).min((offset / SECTOR + sectors) * SECTOR);
        if end <= offset {
            return;
        }
        if self.seen.len() < end {
            self.seen.resize(end, 0);
            self.durable.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(&bytes[..end - offset]);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.forgotten.remove(&sector);
            self.pending.push((sector, self.seen[self.range(sector)].to_vec()));
        }
    }

    fn sync(&mut self) {
        for (sector, bytes) in std::mem::take(&mut self.pending) {
            self.put_durable(sector, &bytes);
        }
    }

    /// Some of it reaches the platter; the rest is clean all the same.
    fn fail_sync(&mut self, rng: &mut Rng) {
        for (sector, bytes) in std::mem::take(&mut self.pending) {
            if rng.u32(..3) == 0 {
                self.put_durable(sector, &bytes);
            }
            self.forgotten.insert(sector);
        }
    }
}

/// A process's view of a [`Machine`].
#[derive(Clone)]
pub(crate) struct SimDisk {
    pub(crate) machine: Shared<Machine>,
    pub(crate) process: Arc<Process>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl SimDisk {
    /// Does `act`, which is told whether the process dies in it, half of the times before it and
    /// half after it.
    fn call<T>(&self, act: impl FnOnce(&mut Machine) -> io::Result<T>) -> io::Result<T> {
        if self.process.is_dead() {
            return Err(io::Error::other("simulated: the process is dead"));
        }
        let dies = self.process.tick();
        let mut machine = lock(&self.machine);
        if dies && machine.rng.bool() {
            drop(machine);
            self.process.die();
        }
        let outcome = act(&mut machine);
        drop(machine);
        if dies {
            self.process.die();
        }
        outcome
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn names(&self) -> io::Result<Vec<String>> {
        self.call(|machine| Ok(machine.names.keys().cloned().collect()))
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        self.call(|machine| {
            let inode = *machine.names.get(name).ok_or(ErrorKind::NotFound)?;
            Ok(SimFile { disk: self.clone(), inode, name: name.to_owned() })
        })
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<SimFile> {
        self.call(|machine| {
            note!(machine.log, "{}: create {name}", machine.label);
            if machine.full && bytes > 4096 {
                return Err(ErrorKind::StorageFull.into());
            }
            machine.fails(machine.faults.write, "creation", name)?;
            let zeros = vec![0; bytes as usize];
            machine.inodes.push(Inode { seen: zeros.clone(), durable: zeros, ..Inode::default() });
            let inode = machine.inodes.len() - 1;
            machine.names.insert(name.to_owned(), inode);
            machine.changes.push(NameChange::Link(name.to_owned(), inode));
            Ok(SimFile { disk: self.clone(), inode, name: name.to_owned() })
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(|machine| {
            note!(machine.log, "{}: rename {from} to {to}", machine.label);
            machine.fails(machine.faults.names, "renaming", from)?;
            let inode = machine.names.remove(from).ok_or(ErrorKind::NotFound)?;
            machine.names.insert(to.to_owned(), inode);
            machine.changes.push(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.call(|machine| {
            note!(machine.log, "{}: remove {name}", machine.label);
            machine.fails(machine.faults.names, "removal", name)?;
            machine.names.remove(name).ok_or(ErrorKind::NotFound)?;
            machine.changes.push(NameChange::Unlink(name.to_owned()));
            Ok(())
        })
    }

    fn sync_names(&self) -> io::Result<()> {
        self.call(|machine| {
            note!(machine.log, "{}: sync names", machine.label);
            machine.fails(machine.faults.names, "sync", "the directory")?;
            if machine.sabotage != Some(Sabotage::SkipNameSync) {
                machine.durable_names = machine.names.clone();
                machine.changes.clear();
            }
            Ok(())
        })
    }

    fn in_background(&self, job: Job) {
        if !self.process.is_dead() {
            job();
        }
    }
}

/// An open file of a [`SimDisk`].
pub(crate) struct SimFile {
    disk: SimDisk,
    inode: usize,
    name: String,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.name)
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.disk.call(|machine| Ok(machine.inodes[self.inode].seen.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.call(|machine| {
            let rest = machine.inodes[self.inode].seen.get(offset as usize..).unwrap_or_default();
            let bytes = rest.len().min(buffer.len());
            buffer[..bytes].copy_from_slice(&rest[..bytes]);
            Ok(bytes)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let process = &self.disk.process;
        if process.is_dead() {
            return Err(io::Error::other("simulated: the process is dead"));
        }
        let dies = process.tick();
        let mut machine = lock(&self.disk.machine);
        let Machine { rng, log, label, .. } = &mut *machine;
        note!(log, "{label}: write {} bytes to {} at {offset}", bytes.len(), self.name);
        let sectors = bytes.len() / SECTOR + 2;
        // A process that dies in a write, and a write that fails, leave a part of it.
        let part = rng.usize(..=sectors);
        let rate = machine.faults.write;
        let failed = machine.fails(rate, "write", &self.name);
        machine.failed |= failed.is_err();
        let sectors = if dies || failed.is_err() { part } else { sectors };
        machine.inodes[self.inode].write(bytes, offset as usize, sectors);
        drop(machine);
        if dies {
            process.die();
        }
        failed
    }

    /// In whole blocks, as [`RealDisk`](journal::RealDisk) does it past the page cache: the beginning
    /// of the first one is written again.
    fn append_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let begin = offset as usize / BLOCK * BLOCK;
        let machine = lock(&self.disk.machine);
        let seen = &machine.inodes[self.inode].seen;
        let mut blocks = seen[begin..(offset as usize).min(seen.len())].to_vec();
        blocks.extend_from_slice(bytes);
        let end = (begin + blocks.len()).next_multiple_of(BLOCK).min(seen.len());
        blocks.resize((end - begin).max(blocks.len()), 0);
        drop(machine);
        self.write_at(&blocks, begin as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call(|machine| {
            note!(machine.log, "{}: sync {}", machine.label, self.name);
            if machine.sabotage.is_some_and(|sabotage| sabotage.skips_sync(&self.name)) {
                return Ok(());
            }
            let failed = machine.fails(machine.faults.sync, "sync", &self.name);
            let Machine { inodes, rng, sabotage, .. } = machine;
            let Err(error) = failed else {
                inodes[self.inode].sync();
                return Ok(());
            };
            inodes[self.inode].fail_sync(rng);
            if *sabotage == Some(Sabotage::RetrySync) {
                return Ok(());
            }
            machine.failed = true;
            Err(error)
        })
    }
}
