//! Opens taps to the outside, for guests with egress.

use slog::debug;

use super::{
    super::{
        error::{NetError, refused},
        firewall::Firewall,
        sysctl,
        tap_pool::{Tap, TapKind},
    },
    TapManager,
};
use crate::state::Resource;

impl TapManager {
    /// Opens a closed tap.
    pub(super) async fn enable_egress(&mut self, mut tap: Tap) -> Result<Tap, NetError> {
        tap.kind = TapKind::Open;
        let enabled = async {
            self.forward_uplinks().await?;
            sysctl::forward(&tap.name).map_err(refused("forwarding"))?;
            let group = self.settings.mark.open();
            self.netlink.set_group(tap.index, group).await.map_err(refused(&format!("tap {}", tap.name)))
        };
        match enabled.await {
            Ok(()) => Ok(tap),
            Err(error) => {
                self.remove(tap).await;
                Err(error)
            }
        }
    }

    /// Switches on forwarding for replies from the outside; the firewall drops everything else from there.
    async fn forward_uplinks(&mut self) -> Result<(), NetError> {
        if self.egress {
            return Ok(());
        }
        let others = Firewall::guarded_uplinks(&self.settings.spawner).await.map_err(refused("the list of uplinks"))?;
        for uplink in self.netlink.uplinks().await.map_err(refused("netlink"))? {
            // Forwarding that is on is the choice of the host's administrator, unless another daemon switched it on.
            if sysctl::forwards(&uplink).map_err(refused("forwarding"))? && !others.contains(&uplink) {
                continue;
            }
            self.entries.push(self.settings.journal.record(Resource::Forwarding { interface: uplink.clone() }).await?);
            debug!(self.log, "forwarding is switched on for guests with egress"; "interface" => &uplink);
            self.firewall().guard(&self.settings.spawner, &uplink).await?;
            self.uplinks.push(uplink.clone());
            sysctl::forward(&uplink).map_err(refused("forwarding"))?;
        }
        self.egress = true;
        Ok(())
    }
}
