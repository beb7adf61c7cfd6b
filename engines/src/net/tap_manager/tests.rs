//! Tests of the loop, each in a network namespace of its own.

use async_channel::unbounded;
use futures::stream;
use tokio::time::timeout;

use super::*;
use crate::net::{tap_setup::tests::isolated, tests::Rig};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn requests_are_served_while_the_firewall_cannot_be_installed() {
    isolated(|| async {
        let rig = Rig::new();
        let settings = rig.settings();
        let mut manager = TapManager::open(settings.clone(), TapPools::default(), rig.log.clone()).await.unwrap();
        manager.uplinks.push("name too long for an interface".to_owned());
        Firewall::remove(&settings.spawner, settings.mark).await.unwrap();
        let (sender, requests) = unbounded();
        let acquire = async {
            let (reply, answer) = oneshot::channel();
            sender.try_send(Request::Acquire { kind: TapKind::Closed, reply }).unwrap();
            let tap = timeout(SOON, answer).await.expect("the request is served").unwrap().unwrap();
            sender.try_send(Request::Release(tap)).unwrap();
            sender.close();
        };
        futures::join!(manager.run(requests), acquire);
    });
}

#[test]
fn interfaces_are_listed_again_until_that_works() {
    isolated(|| async {
        let rig = Rig::new();
        let mut manager = TapManager::open(rig.settings(), TapPools::default(), rig.log.clone()).await.unwrap();
        let mut tap = manager.create(TapKind::Closed).await.unwrap();
        Netlink::open().unwrap().remove(tap.index).await.unwrap();
        manager.removed_interfaces = stream::iter([Event::Missed]).chain(stream::pending()).boxed();
        manager.netlink.fail();
        let (sender, requests) = unbounded();
        let removed = async {
            let removed = async { while tap.present.changed().await.is_ok() {} };
            timeout(SOON, removed).await.expect("the removal is noticed");
            sender.close();
        };
        futures::join!(manager.run(requests), removed);
    });
}
