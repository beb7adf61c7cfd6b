//! Applies commands to a store, a group of them in one transaction, and answers after the commit.
//!
//! Generic over the store and without a thread or a clock of its own: the daemon runs it on the store's thread, the
//! simulation in virtual time. A command that cannot be written is refused; only the end of an attempt is kept until it can
//! be, as the attempt has happened.

use std::collections::HashMap;

use super::{
    commands::{Command, Reply},
    fact::StoreFact,
    record::{Entry, InvocationId, Record, State, StoredRequest, TriggerRecord},
    store::{Begun, EnqueueRefusal, Found, Name, Removal, Settle, Store, StoreError, Stored},
    time::UnixMillis,
};

/// Commands in one transaction.
pub const MAX_GROUP: usize = 64;

/// Writes to a store.
pub struct StoreWriter<S> {
    store: S,
    report: Box<dyn FnMut(StoreFact) + Send>,
    counts: HashMap<Name, Counts>,
    /// Changes of `counts` in the transaction.
    counted: Vec<(Name, Counted, isize)>,
    /// What could not be written.
    retained: Vec<Settle>,
    waiters: HashMap<InvocationId, Vec<Reply<Option<Record>>>>,
    /// Why new invocations are refused.
    refusing: Option<String>,
    damage: Option<StoreError>,
}

/// What a function has.
#[derive(Debug, Default)]
struct Counts {
    /// Invocations that have not ended.
    unended: usize,
    /// Dead letters.
    dead: usize,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
enum Counted {
    Unended,
    Dead,
}

/// The answer to a command, until it is committed.
enum Answer {
    Stored(Result<(Stored, Option<Entry>), EnqueueRefusal>),
    Begun(Option<Box<Begun>>),
    Settled(Option<Record>),
    Removed(Removal),
    Record(Option<Record>),
    Found(Option<Box<Found>>),
    Request(Option<Box<StoredRequest>>),
    Dead(Vec<Record>),
    Trigger(TriggerRecord),
    Handovers(Vec<InvocationId>),
    Kept(Option<(Entry, Entry)>),
    Recorded,
}

impl<S: Store> StoreWriter<S> {
    /// Opens the store for writing: what was running is queued again. Facts go to `report`, the first one at once.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub fn open(
        mut store: S,
        now: UnixMillis,
        mut report: impl FnMut(StoreFact) + Send + 'static,
    ) -> Result<Self, StoreError> {
        store.begin()?;
        let recovered = store.recover(now).and_then(|queued| {
            let (undelivered, dead) = (store.undelivered()?, store.count_dead()?);
            let has_handovers = !store.handovers(1)?.is_empty();
            store.commit()?;
            Ok((queued, undelivered, dead, has_handovers))
        });
        let (queued, undelivered, dead, has_handovers) = recovered.inspect_err(|_| store.rollback())?;
        let mut counts = HashMap::<Name, Counts>::new();
        queued.iter().for_each(|entry| counts.entry(entry.function.clone()).or_default().unended += 1);
        dead.into_iter().for_each(|(function, dead)| counts.entry(function).or_default().dead = dead);
        report(StoreFact::Opened { queued, undelivered, has_handovers });
        let (counted, retained, waiters) = Default::default();
        Ok(Self { store, report: Box::new(report), counts, counted, retained, waiters, refusing: None, damage: None })
    }

    /// Carries commands out, and answers them.
    pub fn run(&mut self, commands: Vec<Command>, now: UnixMillis) {
        let retained = std::mem::take(&mut self.retained).into_iter().map(|settle| Command::Settle(Box::new(settle)));
        let commands: Vec<_> = retained.chain(commands).collect();
        if commands.is_empty() {
            return;
        }
        match self.transact(&commands, now) {
            Ok(answers) => commands.into_iter().zip(answers).for_each(|(command, answer)| self.answer(command, answer)),
            // One of them may be to blame, or only some fit.
            Err(_) if commands.len() > 1 => {
                for command in commands {
                    self.run_one(command, now);
                }
            }
            Err(error) => commands.into_iter().for_each(|command| self.refuse(command, &error)),
        }
    }

    fn run_one(&mut self, command: Command, now: UnixMillis) {
        match self.transact(std::slice::from_ref(&command), now).map(|mut answers| answers.pop()) {
            Ok(Some(answer)) => self.answer(command, answer),
            Ok(None) => {}
            Err(error) => self.refuse(command, &error),
        }
    }

    fn transact(&mut self, commands: &[Command], now: UnixMillis) -> Result<Vec<Answer>, StoreError> {
        if commands.iter().any(|command| matches!(command, Command::Enqueue(..))) {
            self.refusing = self.store.has_space().err();
        }
        let done = self.store.begin().and_then(|()| {
            let answers = commands.iter().map(|command| self.apply(command, now)).collect::<Result<_, _>>()?;
            self.store.commit()?;
            Ok(answers)
        });
        let counted = std::mem::take(&mut self.counted);
        if let Err(error @ StoreError::Damaged(_)) = &done {
            self.damage = Some(error.clone());
        }
        if done.is_err() {
            self.store.rollback();
            // The last first: no count may become negative meanwhile.
            counted.into_iter().rev().for_each(|(function, counted, change)| self.add(function, counted, -change));
        }
        done
    }

    fn apply(&mut self, command: &Command, now: UnixMillis) -> Result<Answer, StoreError> {
        Ok(match command {
            Command::Enqueue(new, _) => {
                if let Some(why) = &self.refusing {
                    return Ok(Answer::Stored(Err(EnqueueRefusal::Unavailable { why: why.clone() })));
                }
                let unended = self.counts.get(&new.function).map_or(0, |counts| counts.unended);
                let stored = self.store.enqueue(new, unended, now)?;
                if let Ok((_, Some(_))) = &stored {
                    self.count(&new.function, Counted::Unended, 1);
                }
                Answer::Stored(stored)
            }
            Command::Start { seq, epoch, .. } => Answer::Begun(self.store.start(*seq, *epoch)?.map(Box::new)),
            Command::Settle(settle) => {
                let record = self.store.settle(settle, now)?;
                if let Some(record) = record.as_ref().filter(|record| record.state.is_ended()) {
                    self.count(&record.function, Counted::Unended, -1);
                    if matches!(record.state, State::Dead { .. }) {
                        self.count(&record.function, Counted::Dead, 1);
                    }
                }
                Answer::Settled(record)
            }
            Command::Remove(id, _) => {
                let removal = self.store.remove(*id)?;
                match &removal {
                    Removal::Cancelled(entry) => self.count(&entry.function, Counted::Unended, -1),
                    Removal::Forgotten { dead_of: Some(function) } => self.count(function, Counted::Dead, -1),
                    Removal::Forgotten { dead_of: None } | Removal::Running | Removal::Unknown => {}
                }
                Answer::Removed(removal)
            }
            Command::Redrive(id, _) => {
                let record = self.store.redrive(*id, now)?;
                if let Some(record) = &record {
                    self.count(&record.function, Counted::Unended, 1);
                    self.count(&record.function, Counted::Dead, -1);
                }
                Answer::Record(record)
            }
            Command::Find { id, .. } => Answer::Record(self.store.find(*id)?),
            Command::Response(id, _) => Answer::Found(self.store.response(*id)?.map(Box::new)),
            Command::Request(id, _) => Answer::Request(self.store.request(*id)?.map(Box::new)),
            Command::Dead { function, after, limit, .. } => {
                Answer::Dead(self.store.dead(function.as_deref(), *after, *limit)?)
            }
            Command::Handover(id, _) => Answer::Begun(self.store.handover(*id)?.map(Box::new)),
            Command::Handovers(limit, _) => Answer::Handovers(self.store.handovers(*limit)?),
            Command::Import(letter, _) => {
                if self.store.import(letter, now)? {
                    self.count(&letter.found.record.function, Counted::Dead, 1);
                }
                Answer::Recorded
            }
            Command::KeepHere(id, _) => Answer::Kept(self.store.keep_here(*id)?),
            Command::Result { seq, epoch, .. } => Answer::Found(self.store.result(*seq, *epoch)?.map(Box::new)),
            Command::RecordDelivery { seq, epoch, delivery, .. } => {
                self.store.record_delivery(*seq, *epoch, *delivery)?;
                Answer::Recorded
            }
            Command::OpenTrigger { trigger, seen, .. } => Answer::Trigger(self.store.open_trigger(trigger, *seen)?),
        })
    }

    fn count(&mut self, function: &Name, counted: Counted, change: isize) {
        self.counted.push((function.clone(), counted, change));
        self.add(function.clone(), counted, change);
    }

    fn add(&mut self, function: Name, counted: Counted, change: isize) {
        let counts = self.counts.entry(function).or_default();
        let count = match counted {
            Counted::Unended => &mut counts.unended,
            Counted::Dead => &mut counts.dead,
        };
        *count = count.saturating_add_signed(change);
    }

    /// Answers a command whose change is durable. A receiver that has left does not matter.
    fn answer(&mut self, command: Command, answer: Answer) {
        match (command, answer) {
            (Command::Enqueue(_, reply), Answer::Stored(stored)) => {
                let stored = stored.map(|(stored, entry)| {
                    if let Some(entry) = entry {
                        (self.report)(StoreFact::Queued(entry));
                    }
                    stored
                });
                let _ = reply.send(stored);
            }
            (Command::Start { reply, .. } | Command::Handover(_, reply), Answer::Begun(begun)) => {
                drop(reply.send(begun))
            }
            (Command::Handovers(_, reply), Answer::Handovers(ids)) => drop(reply.send(ids)),
            (Command::KeepHere(_, reply), Answer::Kept(kept)) => {
                if let Some((before, now)) = kept {
                    (self.report)(StoreFact::Cancelled(before));
                    (self.report)(StoreFact::Kept(now));
                }
                let _ = reply.send(());
            }
            (Command::Settle(settle), Answer::Settled(record)) => match record {
                Some(record) => {
                    if record.state.is_ended() {
                        for waiter in self.waiters.remove(&record.id).unwrap_or_default() {
                            let _ = waiter.send(Some(record.clone()));
                        }
                    }
                    (self.report)(StoreFact::Settled(Box::new(record)));
                }
                None => (self.report)(StoreFact::Stale(settle.seq)),
            },
            (Command::Remove(id, reply), Answer::Removed(removal)) => {
                if let Removal::Cancelled(entry) = &removal {
                    (self.report)(StoreFact::Cancelled(entry.clone()));
                    for waiter in self.waiters.remove(&id).unwrap_or_default() {
                        let _ = waiter.send(None);
                    }
                }
                let _ = reply.send(removal);
            }
            (Command::Redrive(_, reply), Answer::Record(record)) => {
                if let Some(entry) = record.as_ref().and_then(Record::entry) {
                    (self.report)(StoreFact::Queued(entry));
                }
                let _ = reply.send(record);
            }
            (Command::Find { id, awaits_end, reply }, Answer::Record(record)) => match record {
                Some(record) if awaits_end && !record.state.is_ended() => {
                    self.waiters.entry(id).or_default().push(reply);
                }
                record => drop(reply.send(record)),
            },
            (Command::Response(_, reply) | Command::Result { reply, .. }, Answer::Found(found)) => {
                drop(reply.send(found));
            }
            (Command::Request(_, reply), Answer::Request(request)) => drop(reply.send(request)),
            (Command::Dead { reply, .. }, Answer::Dead(records)) => drop(reply.send(records)),
            (Command::RecordDelivery { reply, .. } | Command::Import(_, reply), Answer::Recorded) => {
                let _ = reply.send(());
            }
            (Command::OpenTrigger { reply, .. }, Answer::Trigger(record)) => drop(reply.send(record)),
            (command, _) => debug_assert!(false, "another command's answer: {command:?}"),
        }
    }

    fn refuse(&mut self, command: Command, error: &StoreError) {
        match command {
            Command::Enqueue(_, reply) => {
                let _ = reply.send(Err(EnqueueRefusal::Unavailable { why: error.to_string() }));
            }
            Command::Settle(settle) => self.retained.push(*settle),
            // The dropped reply says that the store is not available.
            _ => {}
        }
    }

    /// Removes records whose time has come, at most `limit`. Returns how many.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub fn purge(&mut self, now: UnixMillis, limit: usize) -> Result<usize, StoreError> {
        self.waiters.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        self.store.begin()?;
        let purged = self.store.purge(now, limit).and_then(|purged| self.store.commit().map(|()| purged));
        let purged = purged.inspect_err(|_| self.store.rollback())?;
        purged.dead_of.into_iter().for_each(|function| self.add(function, Counted::Dead, -1));
        Ok(purged.count)
    }

    /// Returns how the store is damaged, if that was noticed.
    pub fn damage(&self) -> Option<&StoreError> {
        self.damage.as_ref()
    }

    /// Whether ends of attempts wait until they can be written.
    pub fn has_retained(&self) -> bool {
        !self.retained.is_empty()
    }

    /// Returns the store.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// Returns how many invocations have not ended.
    pub fn unended(&self) -> usize {
        self.counts.values().map(|counts| counts.unended).sum()
    }

    /// Returns how many dead letters each function has that has any.
    pub fn dead(&self) -> impl Iterator<Item = (&Name, usize)> {
        self.counts.iter().filter(|(_, counts)| counts.dead > 0).map(|(function, counts)| (function, counts.dead))
    }
}
