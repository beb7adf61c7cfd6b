//! Everybody who is connected to one listener: how many there may be, and who has to leave.
//!
//! A connection costs a descriptor and memory, and while it is served a slot of a function. So there is a [`Room`] for a
//! listener, with places for so many and for so many of one address, and each HTTP worker knows its part of the [`Crowd`].
//! Who finds every place taken gets that of the one of its worker that has rested for longest. If nobody rests there, it is
//! let in to be told so, and somebody who rests elsewhere has to leave for the next; past that, it is not let in at all.
//! How long each may take its time is its own business (`client.rs`): no request costs more here than two numbers written
//! down.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

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
    /// By age.
    members: RefCell<BTreeMap<u64, Rc<Presence>>>,
    next: Cell<u64>,
    /// How often anybody has begun to rest.
    rests: Cell<u64>,
    closed: Cell<bool>,
}

/// A connection's being among the others, until dropped.
#[derive(Debug)]
pub struct Guest {
    crowd: Rc<Crowd>,
    number: u64,
    presence: Rc<Presence>,
    welcome: bool,
    _place: Place,
}

/// What the others know of a connection.
#[derive(Debug, Default)]
struct Presence {
    /// When it began to rest, counted in rests. `None`: a request of it is served.
    resting: Cell<Option<u64>>,
    turned_out: Cell<bool>,
    /// A connection is one task for all its life, so one waker is enough.
    waker: RefCell<Option<Waker>>,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(room: Arc<Room>) -> Rc<Self> {
        let (members, next, rests, closed) = Default::default();
        Rc::new(Self { room, members, next, rests, closed })
    }

    /// Lets a connection in. `None`: there is no room for it whatsoever.
    pub fn admit(self: &Rc<Self>, from: IpAddr) -> Option<Guest> {
        let (place, welcome) = match self.room.enter(from) {
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
        let number = self.next.replace(self.next.get() + 1);
        let presence = Rc::new(Presence::default());
        self.members.borrow_mut().insert(number, presence.clone());
        let guest = Guest { crowd: self.clone(), number, presence, welcome, _place: place };
        guest.rest();
        Some(guest)
    }

    /// Makes room for those that found none with another worker. To be called every second or so.
    pub fn sweep(&self) {
        while self.room.wanted.load(Ordering::Relaxed) > 0 && self.make_room() {
            let one_less = |wanted: usize| wanted.checked_sub(1);
            // Another worker may have been faster: then one more rests no longer.
            let _ = self.room.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        }
    }

    /// From now on nobody may rest.
    pub fn close(&self) {
        self.closed.set(true);
        for member in self.members.borrow().values() {
            member.wake();
        }
    }

    /// Ends the connection that has rested for longest; whether there was one.
    fn make_room(&self) -> bool {
        let members = self.members.borrow();
        let resting = members.values().filter(|member| !member.turned_out.get());
        let longest =
            resting.filter_map(|member| Some((member.resting.get()?, member))).min_by_key(|(since, _)| *since);
        let Some((_, member)) = longest else { return false };
        member.turned_out.set(true);
        member.wake();
        self.room.turned_out.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl Guest {
    /// Whether there is a place for it. If not, it is to be told so.
    pub fn is_welcome(&self) -> bool {
        self.welcome
    }

    /// A request of it is served from now on.
    pub fn is_served(&self) {
        self.presence.resting.set(None);
    }

    /// It has nothing to do but to wait for a request. Ready once it has to leave.
    pub fn poll_rest(&self, cx: &Context<'_>) -> Poll<()> {
        if self.presence.turned_out.get() || self.crowd.closed.get() {
            return Poll::Ready(());
        }
        self.rest();
        let mut waker = self.presence.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// It has kept the daemon waiting for too long and has to leave.
    pub fn has_to_leave(&self) {
        self.crowd.room.turned_out.fetch_add(1, Ordering::Relaxed);
    }

    fn rest(&self) {
        if self.presence.resting.get().is_none() {
            let rests = &self.crowd.rests;
            self.presence.resting.set(Some(rests.replace(rests.get() + 1)));
        }
    }
}

impl Presence {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.crowd.members.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(places: usize, each: usize) -> Rc<Crowd> {
        Crowd::new(Room::new(places, each))
    }

    /// So many connections from there, as far as they are let in.
    fn come(crowd: &Rc<Crowd>, from: &str, count: usize) -> Vec<Guest> {
        (0..count).filter_map(|_| crowd.admit(from.parse().unwrap())).collect()
    }

    fn has_to_go(guest: &Guest) -> bool {
        guest.poll_rest(&Context::from_waker(Waker::noop())).is_ready()
    }

    fn occupancy(crowd: &Crowd) -> (usize, u64, u64) {
        let Occupancy { open, refused, turned_out } = crowd.room.occupancy();
        (open, refused, turned_out)
    }

    #[test]
    fn whoever_rests_for_longest_makes_room_for_the_next() {
        let crowd = crowd(3, 3);
        let [first, second, third] = ["127.0.0.1"; 3].map(|from| come(&crowd, from, 1).remove(0));
        first.is_served();
        assert!(!has_to_go(&first), "it rests again, for less long than the second");
        third.is_served();
        let fourth = come(&crowd, "127.0.0.1", 1).remove(0);
        assert!(fourth.is_welcome());
        assert_eq!([&first, &second, &fourth].map(has_to_go), [false, true, false]);
        drop(second);
        assert_eq!(occupancy(&crowd), (3, 0, 1));
        drop((first, third, fourth));
        assert_eq!(occupancy(&crowd), (0, 0, 1));
        assert!(crowd.members.borrow().is_empty());
    }

    #[test]
    fn nobody_makes_room_twice() {
        let crowd = crowd(8, 8);
        let here = come(&crowd, "127.0.0.1", 8);
        here[1..].iter().for_each(Guest::is_served);
        assert!(come(&crowd, "127.0.0.1", 1)[0].is_welcome());
        assert!(has_to_go(&here[0]));
        let late = crowd.admit("127.0.0.1".parse().unwrap()).unwrap();
        assert!(!late.is_welcome(), "the one that rested has not gone yet");
    }

    #[test]
    fn where_all_are_served_some_are_told_that_there_is_no_room_and_the_rest_is_not() {
        let crowd = crowd(8, 8);
        let served = come(&crowd, "127.0.0.1", 8);
        served.iter().for_each(Guest::is_served);
        let told = come(&crowd, "127.0.0.1", 1).remove(0);
        told.is_served();
        assert!(!told.is_welcome());
        assert!(come(&crowd, "127.0.0.1", 1).is_empty());
        assert_eq!(occupancy(&crowd), (9, 2, 0));
        drop((served, told));
        assert!(come(&crowd, "127.0.0.1", 1)[0].is_welcome());
    }

    #[test]
    fn who_rests_with_another_worker_makes_room_for_the_one_after() {
        let room = Room::new(2, 2);
        let (one, other) = (Crowd::new(room.clone()), Crowd::new(room));
        let resting = come(&one, "127.0.0.1", 1).remove(0);
        let served = come(&other, "127.0.0.1", 1).remove(0);
        served.is_served();
        assert!(!come(&other, "127.0.0.1", 1)[0].is_welcome());
        one.sweep();
        assert!(has_to_go(&resting));
        drop(resting);
        assert!(come(&other, "127.0.0.1", 1)[0].is_welcome());
    }

    #[test]
    fn one_client_gets_no_more_than_its_share_however_it_is_written() {
        let crowd = crowd(20, 2);
        for (one, same, other) in
            [("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8:0:1::1")]
        {
            let his = come(&crowd, one, 2);
            assert!(his.iter().all(Guest::is_welcome));
            assert!(!come(&crowd, same, 1)[0].is_welcome());
            assert!(come(&crowd, other, 1)[0].is_welcome());
            drop(his);
            assert!(come(&crowd, same, 1)[0].is_welcome());
        }
        assert!(come(&crowd, "127.0.0.1", 9).iter().all(Guest::is_welcome), "a proxy of this host");
        assert!(crowd.room.taken().by_client.is_empty());
    }

    #[test]
    fn at_the_last_call_nobody_rests_any_more() {
        let crowd = crowd(3, 3);
        let here = come(&crowd, "127.0.0.1", 2);
        assert!(!here.iter().any(has_to_go));
        crowd.close();
        assert!(here.iter().all(has_to_go));
        assert_eq!(occupancy(&crowd), (2, 0, 0));
    }
}
