//! What entries say about forwarding and QUIC.

use lb_common::abi::quic::{QuicConfigEntry, QuicServer, QuicServerKey};
use lb_common::abi::service::{FORWARD_GUE, FORWARD_IPIP, FORWARD_L2};

use super::image::pool_number;
use crate::config::{Backend, Config, Forwarding, PoolIndex, QuicConfig, Service, ServiceId};

pub(super) const fn forwarding_number(forwarding: Forwarding) -> u8 {
    match forwarding {
        Forwarding::Ipip => FORWARD_IPIP,
        Forwarding::Gue { .. } => FORWARD_GUE,
        Forwarding::L2 => FORWARD_L2,
    }
}

pub(super) const fn gue_port(forwarding: Forwarding) -> [u8; 2] {
    match forwarding {
        Forwarding::Gue { port } => port.to_be_bytes(),
        Forwarding::Ipip | Forwarding::L2 => [0; 2],
    }
}

const fn config_entry(config: QuicConfig) -> QuicConfigEntry {
    QuicConfigEntry::new(config.id, config.server_id_length)
}

/// The configurations of a service's connection ids.
pub(super) fn quic_configs(service: &Service) -> [u8; 2] {
    let Some(quic) = service.quic else { return [0; 2] };
    [config_entry(quic.current).0, quic.rotation.map_or(0, |rotation| config_entry(rotation).0)]
}

/// Whose server id is which, for all QUIC services, sorted by key. Only backends of the service's own pools are in it.
pub(super) fn quic_servers(config: &Config) -> Vec<(QuicServerKey, QuicServer)> {
    let mut servers = Vec::new();
    for (index, service) in config.services.iter().enumerate() {
        let (Some(quic), Some(id)) = (service.quic, ServiceId::from_index(index)) else { continue };
        for (position, pool) in service.pools.iter().enumerate() {
            let Some(pool_index) = PoolIndex::from_index(position) else { continue };
            let number = pool_number(config, id, pool_index) as u32;
            for member in config.all_members(pool) {
                let backend = &config[member];
                let server = QuicServer { backend: member.index() as u32, pool: number };
                let mut add = |config: QuicConfig, server_id: fn(&Backend) -> Option<&Vec<u8>>| {
                    let key = server_id(backend).map(|bytes| key(index as u32, config, bytes));
                    servers.extend(key.map(|key| (key, server)));
                };
                add(quic.current, |backend| backend.quic_server_id.as_ref());
                if let Some(rotation) = quic.rotation {
                    add(rotation, |backend| backend.quic_rotation_id.as_ref());
                }
            }
        }
    }
    servers.sort_unstable_by_key(|(key, _)| *key);
    servers
}

fn key(service: u32, config: QuicConfig, bytes: &[u8]) -> QuicServerKey {
    let mut server_id = [0_u8; 16];
    for (to, from) in server_id.iter_mut().zip(bytes) {
        *to = *from;
    }
    let [low, high] = [0, 8].map(|at| u64::from_ne_bytes(std::array::from_fn(|i| server_id[at + i])));
    QuicServerKey { service, config: config_entry(config).0, reserved: [0; 3], server_id: [low, high] }
}
