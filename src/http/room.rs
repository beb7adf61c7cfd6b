//! The places at one listener, shared by all HTTP workers: how many are taken, and by whom. Who has to leave for whom is
//! the business of `crowd.rs`.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// Of all places, one in so many is kept for those that are let in to be told that there is none.
const SPARE: usize = 8;

/// The places at one listener.
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
pub struct Place {
    room: Arc<Room>,
    client: Option<IpAddr>,
}

/// What there is for somebody who comes in.
#[derive(Debug)]
pub enum Answer {
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

    /// Takes a place for a connection, if there is any.
    pub fn enter(self: &Arc<Self>, from: IpAddr) -> Answer {
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

    /// Somebody found no place.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody had to leave.
    pub fn count_turned_out(&self) {
        self.turned_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody found every place taken, and nobody of its worker at rest.
    pub fn want_one_more(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether others are to leave for those.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }

    /// Somebody leaves for one of them.
    pub fn want_one_less(&self) {
        let one_less = |wanted: usize| wanted.checked_sub(1);
        // Another worker may have been faster: then one more rests no longer.
        let _ = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a place; whether it is a welcome one.
    fn enter(room: &Arc<Room>, from: &str) -> (bool, Option<Place>) {
        match room.enter(from.parse().unwrap()) {
            Answer::Welcome(place) => (true, Some(place)),
            Answer::EnoughOfYou(place) | Answer::Full(place) => (false, Some(place)),
            Answer::NoRoom => (false, None),
        }
    }

    #[test]
    fn one_client_gets_no_more_than_its_share_however_it_is_written() {
        let room = Room::new(20, 2);
        for (one, same, other) in
            [("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8:0:1::1")]
        {
            let his = [enter(&room, one), enter(&room, one)];
            assert!(his.iter().all(|(welcome, _)| *welcome));
            assert!(!enter(&room, same).0 && enter(&room, other).0);
            drop(his);
            assert!(enter(&room, same).0);
        }
        let of_this_host: Vec<_> = (0..9).map(|_| enter(&room, "127.0.0.1")).collect();
        assert!(of_this_host.iter().all(|(welcome, _)| *welcome), "a proxy of this host");
        assert!(room.taken().by_client.is_empty());
    }

    #[test]
    fn past_the_last_place_some_are_let_in_and_then_nobody() {
        let room = Room::new(16, 16);
        let here: Vec<_> = (0..19).map(|_| enter(&room, "127.0.0.1")).collect();
        let count =
            |welcome, inside| here.iter().filter(|(w, place)| (*w, place.is_some()) == (welcome, inside)).count();
        assert_eq!((count(true, true), count(false, true), count(false, false)), (16, 2, 1));
        assert_eq!(room.occupancy().open, 18);
        drop(here);
        assert_eq!(room.occupancy().open, 0);
    }

    #[test]
    fn nobody_is_wanted_once_there_is_a_place() {
        let room = Room::new(1, 1);
        room.want_one_less();
        assert!(!room.is_wanted());
        room.want_one_more();
        room.want_one_more();
        room.want_one_less();
        assert!(room.is_wanted());
        assert!(enter(&room, "127.0.0.1").0 && !room.is_wanted());
    }
}
