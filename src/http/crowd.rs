//! Everybody who is connected to one listener: who is let in, and who has to leave.
//!
//! A connection costs a descriptor and memory, and while it is served a slot of a function. So there is a [`Room`] for a
//! listener, with places for so many and for so many of one address (`room.rs`), and each HTTP worker knows its part of the
//! [`Crowd`]. Who finds every place taken gets that of the one of its worker that has rested for longest. If nobody rests
//! there, it is let in to be told so, and somebody who rests elsewhere has to leave for the next; past that, it is not let
//! in at all. How long each may take its time is its own business (`client.rs`): no request costs more here than two
//! numbers written down.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::room::{Answer, Place, Room};

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
                    self.room.want_one_more();
                }
                (place, made)
            }
            Answer::EnoughOfYou(place) => (place, false),
            Answer::NoRoom => {
                self.room.count_refused();
                return None;
            }
        };
        if !welcome {
            self.room.count_refused();
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
        while self.room.is_wanted() && self.make_room() {
            self.room.want_one_less();
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
        self.room.count_turned_out();
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
        self.crowd.room.count_turned_out();
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
    use super::{super::room::Occupancy, *};

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
    fn at_the_last_call_nobody_rests_any_more() {
        let crowd = crowd(3, 3);
        let here = come(&crowd, "127.0.0.1", 2);
        assert!(!here.iter().any(has_to_go));
        crowd.close();
        assert!(here.iter().all(has_to_go));
        assert_eq!(occupancy(&crowd), (2, 0, 0));
    }
}
