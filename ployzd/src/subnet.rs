//! Whether the instances' subnet is nobody else's: asked of the engine's networks and of the machine's own, before anything is founded or
//! started. Two clusters in one subnet would both want its first address, and an instance of one could be reached as one of the other.

use std::net::Ipv4Addr;
use std::time::Duration;

use io_adapters::docker::{Docker, TakenSubnet};
use proto_core::api::ErrorBody;

use crate::config::{Config, Runtime as Kind};
use crate::fit::Refusal;
use crate::runtime::Runtime;

/// How many bits of an address say which subnet it is in, in the subnet of a cluster.
const BITS: u32 = 24;
/// How long the engine may take to name its networks.
const PATIENCE: Duration = Duration::from_secs(5);

/// A subnet and who has it.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    base: Ipv4Addr,
    bits: u32,
    by: String,
    /// The command that shows more.
    look: String,
}

impl Taken {
    /// Whether they share an address.
    fn overlaps(&self, subnet: Ipv4Addr) -> bool {
        let bits = self.bits.min(BITS);
        (self.base.to_bits() ^ subnet.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
    }
}

/// Refuses the subnet of the Docker runtime if another network has it. An engine that is away is told when the daemon starts.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    let Kind::Docker { subnet, .. } = config.runtime else { return Ok(()) };
    let Runtime::Docker(docker) = Runtime::new(config, std::env::current_exe()?) else {
        return Ok(());
    };
    // Without the engine's word its own bridge could be taken for somebody else's.
    let Some(there) = networks(&docker)? else { return Ok(()) };
    if there.iter().any(|network| network.network == docker.network_name()) {
        // The engine has given it to this cluster.
        return Ok(());
    }
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let routes: Vec<_> = routes.lines().filter_map(of_route).collect();
    let mut taken: Vec<_> = there.iter().filter_map(of_network).collect();
    for network in &mut taken {
        let same = routes.iter().find(|it| (it.base, it.bits) == (network.base, network.bits));
        network.by.extend(same.map(|route| format!(", {}", route.by)));
    }
    taken.extend(routes);
    match taken.iter().find(|taken| taken.overlaps(subnet)) {
        None => Ok(()),
        Some(by) => Err(Refusal(refusal(config, subnet, by, free(&taken))).into()),
    }
}

/// `None`: the engine does not say.
fn networks(docker: &Docker) -> anyhow::Result<Option<Vec<TakenSubnet>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async { tokio::time::timeout(PATIENCE, docker.taken_subnets()).await };
    Ok(runtime.block_on(asked).ok().and_then(Result::ok))
}

fn refusal(config: &Config, subnet: Ipv4Addr, taken: &Taken, free: Option<Ipv4Addr>) -> ErrorBody {
    let Taken { base, bits, by, look } = taken;
    let message = format!(
        "subnet {subnet}/{BITS}, which the instances are to have, is taken: {base}/{bits} belongs to {by}"
    );
    let next = match free {
        Some(free) if !config.path("ployzd.toml").exists() => {
            let (name, _) = config.cluster();
            let found =
                if name == "dev" { "dev up".to_owned() } else { format!("mesh init {name}") };
            let at = |listen: &[std::net::SocketAddr]| listen.first().map(ToString::to_string);
            let mut command = format!(
                "ployzctl {found} --runtime docker --data-dir {} --subnet {free} --nats-port {}",
                config.data_dir.display(),
                config.nats.port
            );
            for (option, at) in [
                ("--gateway-listen", at(&config.gateway.listen)),
                ("--dns-listen", at(&config.dns.listen)),
            ] {
                command.extend(at.map(|at| format!(" {option} {at}")));
            }
            command
        }
        // A cluster keeps the addresses that it was founded with.
        _ => look.clone(),
    };
    ErrorBody::new("SUBNET_TAKEN", message).next(next)
}

/// The first subnet after the usual one that nobody has.
fn free(taken: &[Taken]) -> Option<Ipv4Addr> {
    let mut candidates = (102..=250).map(|second| Ipv4Addr::new(10, second, 0, 0));
    candidates.find(|candidate| !taken.iter().any(|taken| taken.overlaps(*candidate)))
}

fn of_network(network: &TakenSubnet) -> Option<Taken> {
    let (base, bits) = network.subnet.split_once('/')?;
    let owner = match &network.cluster {
        Some(cluster) => format!(", of the Ployz cluster {cluster}"),
        None => String::new(),
    };
    Some(Taken {
        base: base.parse().ok()?,
        bits: bits.parse().ok().filter(|bits| *bits <= 32)?,
        by: format!("Docker network {}{owner}", network.network),
        look: format!("docker network inspect {}", network.network),
    })
}

/// A line of `/proc/net/route`: interface, destination, gateway, …, mask (the eighth), addresses as hexadecimal numbers of this machine's
/// byte order. Only what is reached without a gateway is a network of this machine's own.
fn of_route(line: &str) -> Option<Taken> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let address = |at: usize| {
        let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let (base, gateway, mask) = (address(1)?, address(2)?, address(7)?);
    let bits = mask.to_bits().leading_ones();
    let own = gateway.is_unspecified() && bits > 0;
    own.then(|| Taken {
        base,
        bits,
        by: format!("interface {}", fields[0]),
        look: format!("ip address show dev {}", fields[0]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Taken {
        let subnet =
            TakenSubnet { network: "n".to_owned(), subnet: text.to_owned(), cluster: None };
        of_network(&subnet).unwrap()
    }

    #[test]
    fn subnets_overlap_if_they_share_an_address() {
        let subnet = Ipv4Addr::new(10, 101, 0, 0);
        for shares in [
            "10.101.0.0/24",
            "10.101.0.128/25",
            "10.101.0.7/32",
            "10.101.0.0/16",
            "10.0.0.0/8",
            "0.0.0.0/0",
        ] {
            assert!(taken(shares).overlaps(subnet), "{shares}");
        }
        for apart in ["10.101.1.0/24", "10.102.0.0/16", "172.17.0.0/16", "11.0.0.0/8"] {
            assert!(!taken(apart).overlaps(subnet), "{apart}");
        }
        assert_eq!(free(&[]), Some(Ipv4Addr::new(10, 102, 0, 0)));
        assert_eq!(
            free(&[taken("10.102.0.0/24"), taken("10.103.0.0/16")]),
            Some(Ipv4Addr::new(10, 104, 0, 0))
        );
        assert_eq!(free(&[taken("10.0.0.0/8")]), None);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_machines_own_networks_are_read_and_what_lies_behind_a_gateway_is_not() {
        let text = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
            br-1 0000650A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
            tun0 0000660A 010200C0 0003 0 0 0 00FFFFFF 0 0 0\n";
        let own: Vec<_> = text.lines().filter_map(of_route).collect();
        let base = Ipv4Addr::new(10, 101, 0, 0);
        let (by, look) = ("interface br-1".to_owned(), "ip address show dev br-1".to_owned());
        assert_eq!(own, [Taken { base, bits: 24, by, look }]);
    }
}
