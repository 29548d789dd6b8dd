//! Decision 006, as somebody would draw addresses who looks at each in turn.

use proptest::prelude::*;

use super::*;
use crate::machine::MachineLifecycle;
use crate::store::facts::VERSION;

const FIRST: u16 = 20_000;
const LAST: u16 = 20_019;

fn machine(addressing: Addressing) -> MachineRecord {
    MachineRecord {
        v: VERSION,
        id: MachineId::new("m1").unwrap(),
        lifecycle: MachineLifecycle::Active,
        region: "local".to_owned(),
        az: None,
        labels: BTreeMap::new(),
        addressing,
    }
}

fn addresses(
    used: &BTreeSet<(IpAddr, u16)>,
    left: &BTreeSet<(IpAddr, u16)>,
    up_to: u16,
) -> Addresses {
    let id = MachineId::new("m1").unwrap();
    Addresses {
        used: [(id.clone(), used.clone())].into(),
        left: [(id.clone(), left.clone())].into(),
        used_up_to: [(id, up_to)].into(),
    }
}

/// From the one after `up_to` once round: the first that nobody has or left a moment ago, or else the first that nobody has.
fn naive(
    all: &[(IpAddr, u16)],
    up_to: u16,
    number: impl Fn(&(IpAddr, u16)) -> u16,
    used: &BTreeSet<(IpAddr, u16)>,
    left: &BTreeSet<(IpAddr, u16)>,
) -> Option<(IpAddr, u16)> {
    let start = all.iter().position(|endpoint| number(endpoint) > up_to).unwrap_or(0);
    let round: Vec<_> = all[start..].iter().chain(&all[..start]).copied().collect();
    let unused: Vec<_> = round.into_iter().filter(|endpoint| !used.contains(endpoint)).collect();
    unused.iter().find(|endpoint| !left.contains(endpoint)).or(unused.first()).copied()
}

fn last_byte(endpoint: &(IpAddr, u16)) -> u16 {
    match endpoint.0 {
        IpAddr::V4(address) => u16::from(address.octets()[3]),
        IpAddr::V6(_) => 0,
    }
}

proptest! {
    #[test]
    fn an_address_of_a_subnet_is_drawn_in_turn(
        // Mostly full, so that the end is reached.
        free in prop::collection::btree_set(2..=254_u8, 0..6),
        left in prop::collection::btree_set(2..=254_u8, 0..250),
        up_to in 0..300_u16,
        times in 1..8_usize,
    ) {
        let at = |d: u8| IpAddr::V4(Ipv4Addr::new(10, 1, 2, d));
        let all: Vec<_> = (2..=254).map(|d| (at(d), 0)).collect();
        let mut used: BTreeSet<_> =
            (2..=254).filter(|d| !free.contains(d)).map(|d| (at(d), 0)).collect();
        let left: BTreeSet<_> = left.into_iter().map(|d| (at(d), 0)).collect();
        let machine = machine(Addressing::Subnet([10, 1, 2, 0].into()));
        let ports = BTreeMap::from([("http".to_owned(), 80)]);
        let mut addresses = addresses(&used, &left, up_to);
        // A position beyond the last byte is one of ports, from before the machine had a subnet.
        let mut up_to = if up_to > 255 { 0 } else { up_to };
        for _ in 0..times {
            let wanted = naive(&all, up_to, last_byte, &used, &left);
            let drawn = addresses.draw(&machine, false, &ports);
            prop_assert_eq!(drawn.as_ref().map(|(address, _)| (*address, 0)), wanted);
            let Some((address, given)) = drawn else { break };
            prop_assert_eq!(&given, &ports);
            used.insert((address, 0));
            up_to = last_byte(&(address, 0));
        }
    }

    #[test]
    fn ports_on_loopback_are_drawn_in_turn_and_each_once(
        used in prop::collection::btree_set(FIRST..=LAST, 0..20),
        left in prop::collection::btree_set(FIRST..=LAST, 0..20),
        up_to in FIRST - 2..=LAST + 2,
        counts in prop::collection::vec(0..4_usize, 1..6),
    ) {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let of = |ports: BTreeSet<u16>| ports.into_iter().map(|port| (loopback, port)).collect();
        let (mut used, left): (BTreeSet<_>, BTreeSet<_>) = (of(used), of(left));
        let all: Vec<_> = (FIRST..=LAST).map(|port| (loopback, port)).collect();
        let machine = machine(Addressing::Loopback { first: FIRST, last: LAST });
        let mut addresses = addresses(&used, &left, up_to);
        let mut up_to = up_to;
        for count in counts {
            let names: BTreeMap<_, _> = (0..count).map(|n| (format!("p{n}"), 80)).collect();
            let drawn = addresses.draw(&machine, false, &names);
            let free = all.iter().filter(|endpoint| !used.contains(endpoint)).count();
            prop_assert_eq!(drawn.is_some(), free >= count, "{} of {}", count, free);
            let Some((address, ports)) = drawn else { break };
            prop_assert_eq!(address, loopback);
            prop_assert!(ports.keys().eq(names.keys()));
            // All of one service are drawn by one look at what is free.
            let start = up_to;
            for port in ports.values() {
                let wanted = naive(&all, start, |endpoint| endpoint.1, &used, &left);
                prop_assert_eq!(Some((loopback, *port)), wanted);
                used.insert((loopback, *port));
                up_to = *port;
            }
        }
    }
}
