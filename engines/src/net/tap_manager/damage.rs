//! Handles interfaces and firewall tables that other processes remove.

use std::collections::HashSet;

use slog::warn;
use tokio::time;

use super::{RETRY_INTERVAL, TapManager};

impl TapManager {
    /// Handles the removal of an interface by another process. The holder of a leased tap sees it, and releases the tap.
    pub(super) fn interface_removed(&mut self, index: u32) {
        if self.present.remove(&index).is_none() {
            return;
        }
        let idle = self.pools.remove(index);
        warn!(self.log, "a tap was removed by another process"; "index" => index, "prepared" => idle.is_some());
        if let Some(tap) = idle {
            self.put_link_of(&tap);
        }
    }

    /// Handles removals that the kernel could not report.
    pub(super) async fn look_for_removed(&mut self) {
        let interfaces = match self.netlink.interfaces().await {
            Ok(interfaces) => interfaces,
            Err(error) => {
                if self.next_look.is_none() {
                    warn!(self.log, "interfaces cannot be listed, so a removed tap goes unnoticed"; "error" => %error);
                }
                self.next_look = Some(time::Instant::now() + RETRY_INTERVAL);
                return;
            }
        };
        self.next_look = None;
        let found: HashSet<u32> = interfaces.iter().map(|interface| interface.index).collect();
        let removed: Vec<u32> = self.present.keys().copied().filter(|index| !found.contains(index)).collect();
        removed.into_iter().for_each(|index| self.interface_removed(index));
    }

    /// Installs the firewall again if it was deleted, for instance by `nft flush ruleset`. Until then guests are
    /// unprotected.
    pub(super) async fn repair_firewall(&mut self) {
        let repaired = self.firewall().repair(&self.settings.spawner, &self.uplinks).await;
        match &repaired {
            Ok(false) => {}
            Ok(true) => warn!(self.log, "the firewall table of virtual machines was removed: it is installed again"),
            Err(error) if self.next_repair.is_none() => {
                warn!(self.log, "the firewall of virtual machines may be missing"; "error" => %error);
            }
            Err(_) => {}
        }
        self.next_repair = repaired.is_err().then(|| time::Instant::now() + RETRY_INTERVAL);
    }
}
