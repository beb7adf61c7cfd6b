//! Everybody who is connected to one listener: how many there may be, and who has to leave.
//!
//! A connection costs a descriptor and memory, and while it is served a slot of a function. So there is a [`Room`] for a
//! listener, with places for so many and for so many of one address; and each HTTP worker looks at its part of the
//! [`Crowd`] once a second and turns out those that keep it waiting (`manners.rs`). Who finds every place taken gets that
//! of the one of its worker that has rested for longest. If nobody rests there, it is let in to be told so, and somebody
//! who rests elsewhere has to leave for the next; past that, it is not let in at all.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    client::{Client, Ends},
    manners::{Offence, Patience},
};

const SECOND: Duration = Duration::from_secs(1);
/// Of all places, one in so many is kept for those that are let in to be told that there is none.
const SPARE: usize = 8;

/// The places at one listener. Shared by all HTTP workers.
#[derive(Debug)]
pub struct Room {
    places: usize,
    /// For the clients of one address, unless it is one of this host.
    places_each: usize,
    taken: Mutex<Taken>,
    /// Those that found every place taken, and nobody of their worker at rest, since there last was a place.
    wanted: AtomicUsize,
    refused: AtomicU64,
    turned_out: AtomicU64,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// What there is to know about a room, for `/debug`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Occupancy {
    /// Connections now.
    pub open: usize,
    /// Those that found no place.
    pub refused: u64,
    /// Those that had to leave.
    pub turned_out: u64,
}

/// A place that is taken, until dropped.
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    client: Option<IpAddr>,
}

/// What there is for somebody who comes in.
#[derive(Debug)]
enum Answer {
    Welcome(Place),
    /// The client has as many places as it may have.
    EnoughOfYou(Place),
    /// Every place is taken.
    Full(Place),
    NoRoom,
}

impl Room {
    /// With so many places, and so many for one client.
    pub fn new(places: usize, places_each: usize) -> Arc<Self> {
        let (taken, wanted, refused, turned_out) = Default::default();
        Arc::new(Self { places, places_each, taken, wanted, refused, turned_out })
    }

    /// How full it is.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            open: self.taken().all,
            refused: self.refused.load(Ordering::Relaxed),
            turned_out: self.turned_out.load(Ordering::Relaxed),
        }
    }

    fn enter(self: &Arc<Self>, from: IpAddr) -> Answer {
        let client = identity(from);
        let mut taken = self.taken();
        if taken.all >= self.places + self.places.div_ceil(SPARE) {
            return Answer::NoRoom;
        }
        taken.all += 1;
        let full = taken.all > self.places;
        let his = client.map_or(0, |client| {
            let count = taken.by_client.entry(client).or_default();
            *count += 1;
            *count
        });
        drop(taken);
        let place = Place { room: self.clone(), client };
        match full {
            _ if his > self.places_each => Answer::EnoughOfYou(place),
            true => Answer::Full(place),
            false => {
                self.wanted.store(0, Ordering::Relaxed);
                Answer::Welcome(place)
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.all -= 1;
        if let Some(client) = self.client
            && let Entry::Occupied(mut count) = taken.by_client.entry(client)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Whose connections are counted together. Nobody's: those of this host, where one proxy may speak for everybody.
fn identity(from: IpAddr) -> Option<IpAddr> {
    match from.to_canonical() {
        address if address.is_loopback() => None,
        // Whoever has one such address has all that share its first half.
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        address => Some(address),
    }
}

/// The connections of one listener that one HTTP worker serves.
#[derive(Debug)]
pub struct Crowd {
    room: Arc<Room>,
    patience: Patience,
    /// Seconds since the worker began.
    now: Cell<u32>,
    /// By age.
    members: RefCell<BTreeMap<u64, Client>>,
    next: Cell<u64>,
}

/// A connection's being among the others, until dropped.
#[derive(Debug)]
pub struct Membership {
    crowd: Rc<Crowd>,
    number: u64,
    _place: Place,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(room: Arc<Room>, patience: Patience) -> Rc<Self> {
        let (now, members, next) = Default::default();
        Rc::new(Self { room, patience, now, members, next })
    }

    /// Lets a connection in. `None`: there is no room for it whatsoever.
    pub fn admit(self: &Rc<Self>, ends: Ends) -> Option<(Client, Membership)> {
        let (place, welcome) = match self.room.enter(ends.peer.ip()) {
            Answer::Welcome(place) => (place, true),
            Answer::Full(place) => {
                let made = self.make_room();
                if !made {
                    self.room.wanted.fetch_add(1, Ordering::Relaxed);
                }
                (place, made)
            }
            Answer::EnoughOfYou(place) => (place, false),
            Answer::NoRoom => {
                self.room.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        if !welcome {
            self.room.refused.fetch_add(1, Ordering::Relaxed);
        }
        let client = Client::new(ends, self.clone(), welcome);
        let number = self.next.replace(self.next.get() + 1);
        self.members.borrow_mut().insert(number, client.clone());
        Some((client, Membership { crowd: self.clone(), number, _place: place }))
    }

    /// Keeps order among them, once a second, for as long as the worker lives.
    pub fn tend(self: &Rc<Self>) {
        let crowd = Rc::downgrade(self);
        actix_rt::spawn(async move {
            let mut turn = tokio::time::interval(SECOND);
            // The first turn comes at once.
            turn.tick().await;
            loop {
                turn.tick().await;
                match crowd.upgrade() {
                    Some(crowd) => crowd.sweep(),
                    None => return,
                }
            }
        });
    }

    /// The time, in seconds.
    pub fn now(&self) -> u32 {
        self.now.get()
    }

    /// Turns out who has kept the daemon waiting for too long.
    fn sweep(&self) {
        let now = self.now.get() + 1;
        self.now.set(now);
        // Those that go strike themselves off later, when they are polled.
        for client in self.members.borrow().values() {
            if let Some(offence) = client.manners().offence(now, &self.patience) {
                self.turn_out(client, offence);
            }
        }
        while self.room.wanted.load(Ordering::Relaxed) > 0 && self.make_room() {
            let one_less = |wanted: usize| wanted.checked_sub(1);
            // Another worker may have been faster: then one more rests no longer.
            let _ = self.room.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        }
    }

    /// So many bytes have come from a client.
    pub fn hears(&self, client: &Client, bytes: usize) {
        client.manners().hears(bytes, self.now.get());
        if client.manners().head_bytes() > self.patience.head_bytes {
            self.turn_out(client, Offence::LargeHead);
        }
    }

    /// Ends the connection that has rested for longest; whether there was one.
    fn make_room(&self) -> bool {
        let members = self.members.borrow();
        let resting = members.values().filter(|client| client.offence().is_none());
        let resting = resting.filter_map(|client| Some((client.manners().resting_since()?, client)));
        match resting.min_by_key(|(since, _)| *since) {
            Some((_, client)) => {
                self.turn_out(client, Offence::InTheWay);
                true
            }
            None => false,
        }
    }

    fn turn_out(&self, client: &Client, offence: Offence) {
        if client.turn_out(offence) {
            self.room.turned_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.crowd.members.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head: 5, rest: 80, stall: Some(30), head_bytes: 100 };

    fn crowd(places: usize, each: usize) -> Rc<Crowd> {
        Crowd::new(Room::new(places, each), PATIENCE)
    }

    /// So many connections from there.
    fn come(crowd: &Rc<Crowd>, from: &str, count: usize) -> Vec<(Client, Membership)> {
        let ends = Ends { peer: (from.parse::<IpAddr>().unwrap(), 5).into(), local: ([127, 0, 0, 1], 3).into() };
        (0..count).filter_map(|_| crowd.admit(ends)).collect()
    }

    fn occupancy(crowd: &Crowd) -> (usize, u64, u64) {
        let Occupancy { open, refused, turned_out } = crowd.room.occupancy();
        (open, refused, turned_out)
    }

    #[test]
    fn whoever_rests_for_longest_makes_room_for_the_next() {
        let crowd = crowd(3, 3);
        let [first, second, third] = ["127.0.0.1"; 3].map(|from| come(&crowd, from, 1).remove(0));
        first.0.manners().hears(1, 9);
        third.0.manners().is_served(true);
        let fourth = come(&crowd, "127.0.0.1", 1).remove(0);
        assert!(fourth.0.is_welcome());
        assert_eq!(second.0.offence(), Some(Offence::InTheWay));
        assert_eq!((first.0.offence(), third.0.offence()), (None, None));
        drop(second);
        assert_eq!(occupancy(&crowd), (3, 0, 1));
        drop((first, third, fourth));
        assert_eq!(occupancy(&crowd), (0, 0, 1));
        assert!(crowd.members.borrow().is_empty());
    }

    #[test]
    fn where_all_are_served_some_are_told_that_there_is_no_room_and_the_rest_is_not() {
        let crowd = crowd(8, 8);
        let served = come(&crowd, "127.0.0.1", 8);
        served.iter().for_each(|(client, _)| client.manners().is_served(true));
        let told = come(&crowd, "127.0.0.1", 1).remove(0);
        told.0.manners().is_served(true);
        assert!(!told.0.is_welcome());
        assert!(come(&crowd, "127.0.0.1", 1).is_empty());
        assert_eq!(occupancy(&crowd), (9, 2, 0));
        drop((served, told));
        assert!(come(&crowd, "127.0.0.1", 1)[0].0.is_welcome());
    }

    #[test]
    fn who_rests_with_another_worker_makes_room_for_the_one_after() {
        let room = Room::new(2, 2);
        let (one, other) = (Crowd::new(room.clone(), PATIENCE), Crowd::new(room, PATIENCE));
        let resting = come(&one, "127.0.0.1", 1).remove(0);
        let served = come(&other, "127.0.0.1", 1).remove(0);
        served.0.manners().is_served(true);
        assert!(!come(&other, "127.0.0.1", 1)[0].0.is_welcome());
        one.sweep();
        assert_eq!(resting.0.offence(), Some(Offence::InTheWay));
        drop(resting);
        assert!(come(&other, "127.0.0.1", 1)[0].0.is_welcome());
    }

    #[test]
    fn one_client_gets_no_more_than_its_share_however_it_is_written() {
        let crowd = crowd(20, 2);
        for (one, same, other) in
            [("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8:0:1::1")]
        {
            let his = come(&crowd, one, 2);
            assert!(his.iter().all(|(client, _)| client.is_welcome()));
            assert!(!come(&crowd, same, 1)[0].0.is_welcome());
            assert!(come(&crowd, other, 1)[0].0.is_welcome());
            drop(his);
            assert!(come(&crowd, same, 1)[0].0.is_welcome());
        }
        assert!(come(&crowd, "127.0.0.1", 9).iter().all(|(client, _)| client.is_welcome()), "a proxy of this host");
        assert!(crowd.room.taken().by_client.is_empty());
    }

    #[test]
    fn a_sweep_turns_out_who_is_late_once() {
        let crowd = crowd(3, 3);
        let here = come(&crowd, "127.0.0.1", 2);
        here[0].0.manners().hears(1, crowd.now());
        for _ in 0..7 {
            crowd.sweep();
        }
        assert_eq!((here[0].0.offence(), here[1].0.offence()), (Some(Offence::SlowHead), None));
        assert_eq!(occupancy(&crowd), (2, 0, 1));
    }
}
