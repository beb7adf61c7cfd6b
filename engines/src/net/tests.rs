//! Tests of the firewall and its removal, each in a network namespace of its own.

use slog::{Discard, Logger, o};
use tokio::time;

use super::{
    cleanup::{Cleaned, Leftovers, clean},
    firewall::{Firewall, Mark},
    netlink::Netlink,
    network::Settings,
    sysctl,
    tap::NewTap,
    tap_setup::tests::isolated,
};
use crate::{spawner::Spawner, state::State};

/// What runs nft and records resources.
pub struct Rig {
    pub spawner: Spawner,
    pub log: Logger,
    state: State,
    _home: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (state, _) = State::open(home.path()).unwrap();
        let log = Logger::root(Discard, o!());
        Self { spawner: Spawner::new(&state, &log).unwrap(), log, state, _home: home }
    }

    /// Returns the settings of a network without prepared taps.
    pub fn settings(&self) -> Settings {
        Settings {
            subnet: "10.100.0.0/16".parse().unwrap(),
            pool: 0,
            tap_group: 0,
            callback: "127.0.0.1:3000".parse().unwrap(),
            is_shared: false,
            mark: Mark::new(2),
            journal: self.state.journal.clone(),
            spawner: self.spawner.clone(),
        }
    }

    fn firewall(&self) -> Firewall {
        let Settings { mark, callback, .. } = self.settings();
        Firewall { mark, callback, clones: None }
    }

    async fn clean(&self, leftovers: &Leftovers) -> Cleaned {
        clean(&Netlink::open().unwrap(), leftovers, &self.spawner, &self.log).await
    }
}

#[test]
fn deleted_rules_are_loaded_again_with_their_uplinks_or_not_at_all() {
    isolated(|| async {
        let rig = Rig::new();
        let (firewall, spawner) = (rig.firewall(), &rig.spawner);
        let names = |names: [&str; 2]| names.map(str::to_owned);
        assert!(firewall.repair(spawner, &names(["eth0", "name too long for an interface"])).await.is_err());
        assert!(!firewall.is_installed(spawner).await.unwrap());
        assert_eq!(firewall.repair(spawner, &names(["eth0", "eth1"])).await, Ok(true));
        let mut guarded = Firewall::guarded_uplinks(spawner).await.unwrap();
        guarded.sort();
        assert_eq!(guarded, ["eth0", "eth1"]);
        assert_eq!(firewall.repair(spawner, &[]).await, Ok(false));
    });
}

#[test]
fn rules_that_cannot_be_listed_are_left_alone() {
    isolated(|| async {
        let rig = Rig::new();
        let (firewall, spawner) = (rig.firewall(), &rig.spawner);
        firewall.install(spawner, &[]).await.unwrap();
        // While time is paused, nothing of another process comes in time.
        time::pause();
        let error = firewall.repair(spawner, &[]).await.unwrap_err().to_string();
        assert!(error.contains("the list of firewall tables"), "{error}");
        time::resume();
        assert!(firewall.is_installed(spawner).await.unwrap());
    });
}

#[test]
fn forwarding_stays_on_while_it_is_unknown_whether_another_daemon_depends_on_it() {
    isolated(|| async {
        let rig = Rig::new();
        let tap = NewTap::create(0).unwrap();
        sysctl::forward(&tap.name).unwrap();
        let leftovers = Leftovers { uplinks: vec![tap.name.clone()], ..Leftovers::default() };
        time::pause();
        assert!(!rig.clean(&leftovers).await.complete);
        assert!(sysctl::forwards(&tap.name).unwrap());
        time::resume();
        assert!(rig.clean(&leftovers).await.complete);
        assert!(!sysctl::forwards(&tap.name).unwrap());
    });
}

#[test]
fn rules_stay_while_a_tap_cannot_be_removed() {
    isolated(|| async {
        let rig = Rig::new();
        let (firewall, spawner, netlink) = (rig.firewall(), &rig.spawner, Netlink::open().unwrap());
        firewall.install(spawner, &[]).await.unwrap();
        // The kernel removes no loopback interface.
        let loopback = netlink.find("lo").await.unwrap();
        netlink.set_group(loopback, firewall.mark.closed()).await.unwrap();
        let leftovers = Leftovers { marks: vec![firewall.mark], ..Leftovers::default() };
        assert!(!rig.clean(&leftovers).await.complete);
        assert!(firewall.is_installed(spawner).await.unwrap());
        netlink.set_group(loopback, 0).await.unwrap();
        assert!(rig.clean(&leftovers).await.complete);
        assert!(!firewall.is_installed(spawner).await.unwrap());
    });
}
