//! Resolves the gateway's MAC address before anything is sent to it.
//!
//! smoltcp sends one ARP request a second, whatever addresses are missing. In a user-mode network of QEMU, the callback goes to
//! one address of the network, and the daemon's first request comes from the gateway right after it: its connection would
//! wait for that second. The interface takes any reply that is for its own address, so one request ahead of its own is enough.

use core::net::Ipv4Addr;

use smoltcp::{
    phy::{Device, TxToken as _},
    time::Instant,
    wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol},
};

use crate::net::Card;

/// Sends an ARP request for the gateway. The reply is one of the first frames that the interface receives.
pub fn request(card: &mut Card, own: Ipv4Addr, gateway: Ipv4Addr) {
    let mac = EthernetAddress(card.mac());
    let Some(buffer) = card.transmit(Instant::ZERO) else { return };
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: own,
        target_hardware_addr: EthernetAddress::BROADCAST,
        target_protocol_addr: gateway,
    };
    buffer.consume(EthernetFrame::<&[u8]>::buffer_len(request.buffer_len()), |buffer| {
        let mut frame = EthernetFrame::new_unchecked(buffer);
        frame.set_src_addr(mac);
        frame.set_dst_addr(EthernetAddress::BROADCAST);
        frame.set_ethertype(EthernetProtocol::Arp);
        request.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    });
}
