//! Decision 006, as somebody would draw addresses who looks at each.

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
    uses: &Uses,
) -> Addresses {
    let id = MachineId::new("m1").unwrap();
    Addresses {
        used: [(id.clone(), used.clone())].into(),
        left: [(id.clone(), left.clone())].into(),
        uses: [(id, uses.clone())].into(),
        drawn: BTreeMap::new(),
    }
}

/// One after the other.
fn used_so(places: &[u16]) -> Uses {
    let mut uses = Uses::default();
    for place in places {
        uses.count += 1;
        uses.places.insert(*place, uses.count);
    }
    uses
}

/// Of those that nobody has, what nobody left a moment ago goes first, then what was not used for longest, then what comes next in turn.
fn naive(
    all: &[(IpAddr, u16)],
    after: u16,
    uses: &Uses,
    place: impl Fn(&(IpAddr, u16)) -> u16,
    used: &BTreeSet<(IpAddr, u16)>,
    left: &BTreeSet<(IpAddr, u16)>,
) -> Option<(IpAddr, u16)> {
    let unused = all.iter().filter(|endpoint| !used.contains(endpoint));
    let rank = |endpoint: &&(IpAddr, u16)| {
        let place = place(endpoint);
        let at = uses.places.get(&place).copied().unwrap_or(0);
        (left.contains(endpoint), at, place <= after, place)
    };
    unused.min_by_key(rank).copied()
}

fn last_byte(endpoint: &(IpAddr, u16)) -> u16 {
    match endpoint.0 {
        IpAddr::V4(address) => u16::from(address.octets()[3]),
        IpAddr::V6(_) => 0,
    }
}

proptest! {
    #[test]
    fn an_address_of_a_subnet_that_was_not_used_for_longest_is_drawn(
        // Mostly full, so that the end is reached.
        free in prop::collection::btree_set(2..=254_u8, 0..6),
        left in prop::collection::btree_set(2..=254_u8, 0..250),
        // Beyond the last byte are ports, of the host's own network.
        order in prop::collection::vec(2..300_u16, 0..400),
        times in 1..8_usize,
    ) {
        let at = |d: u8| IpAddr::V4(Ipv4Addr::new(10, 1, 2, d));
        let all: Vec<_> = (2..=254).map(|d| (at(d), 0)).collect();
        let mut used: BTreeSet<_> =
            (2..=254).filter(|d| !free.contains(d)).map(|d| (at(d), 0)).collect();
        let left: BTreeSet<_> = left.into_iter().map(|d| (at(d), 0)).collect();
        let machine = machine(Addressing::Subnet([10, 1, 2, 0].into()));
        let ports = BTreeMap::from([("http".to_owned(), 80)]);
        let uses = used_so(&order);
        let mut addresses = addresses(&used, &left, &uses);
        let mut after = order.iter().rfind(|place| **place <= 254).copied().unwrap_or(0);
        for _ in 0..times {
            let wanted = naive(&all, after, &uses, last_byte, &used, &left);
            let drawn = addresses.draw(&machine, false, &ports);
            prop_assert_eq!(drawn.as_ref().map(|(address, _)| (*address, 0)), wanted);
            let Some((address, given)) = drawn else { break };
            prop_assert_eq!(&given, &ports);
            used.insert((address, 0));
            after = last_byte(&(address, 0));
        }
    }

    #[test]
    fn ports_on_loopback_are_drawn_so_too_and_each_once(
        used in prop::collection::btree_set(FIRST..=LAST, 0..20),
        left in prop::collection::btree_set(FIRST..=LAST, 0..20),
        order in prop::collection::vec(FIRST - 2..=LAST + 2, 0..30),
        counts in prop::collection::vec(0..4_usize, 1..6),
    ) {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let of = |ports: BTreeSet<u16>| ports.into_iter().map(|port| (loopback, port)).collect();
        let (mut used, left): (BTreeSet<_>, BTreeSet<_>) = (of(used), of(left));
        let all: Vec<_> = (FIRST..=LAST).map(|port| (loopback, port)).collect();
        let machine = machine(Addressing::Loopback { first: FIRST, last: LAST });
        let uses = used_so(&order);
        let mut addresses = addresses(&used, &left, &uses);
        let within = |place: &&u16| (FIRST..=LAST).contains(*place);
        let mut after = order.iter().rfind(within).copied().unwrap_or(0);
        for count in counts {
            let names: BTreeMap<_, _> = (0..count).map(|n| (format!("p{n}"), 80)).collect();
            let drawn = addresses.draw(&machine, false, &names);
            let free = all.iter().filter(|endpoint| !used.contains(endpoint)).count();
            prop_assert_eq!(drawn.is_some(), free >= count, "{} of {}", count, free);
            let Some((address, ports)) = drawn else { break };
            prop_assert_eq!(address, loopback);
            prop_assert!(ports.keys().eq(names.keys()));
            // All of one service are drawn by one look at what is free.
            let start = after;
            for port in ports.values() {
                let wanted = naive(&all, start, &uses, |endpoint| endpoint.1, &used, &left);
                prop_assert_eq!(Some((loopback, *port)), wanted);
                used.insert((loopback, *port));
                after = *port;
            }
        }
    }
}
