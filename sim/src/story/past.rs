//! What machines have behind them when a story begins.

use std::collections::BTreeMap;

use proto_core::coordination::{FenceFile, User};
use proto_core::digest::Digest;
use proto_core::id::{InstanceName, OperationId};
use proto_core::random::Random;

use super::Story;
use crate::scenario::founded;
use crate::world::World;

/// The addresses of a machine's subnet end in these.
const PLACES: std::ops::RangeInclusive<u16> = 2..=254;
/// As many addresses each machine has.
pub(crate) const ADDRESSES: u16 = *PLACES.end() - *PLACES.start() + 1;

impl Story {
    /// The world as the story finds it.
    #[must_use]
    pub fn founded(&self) -> World {
        let mut world = founded(self.nodes);
        let mut random = Random::new(self.seed ^ 0xadd2);
        world.fences.fill_with(|| used(self.used, &mut random));
        world
    }
}

/// The fence file of a machine that so many addresses of were used, in any order, by instances that are long gone.
fn used(addresses: u16, random: &mut Random) -> FenceFile {
    let operation = OperationId::from_digest(&Digest::of_bytes(b"before the story"));
    let instance = InstanceName::new("gone-0-before").expect("a literal");
    let mut places: Vec<_> = PLACES.collect();
    let mut users = BTreeMap::new();
    for at in 1..=u64::from(addresses) {
        let left = places.len() as u64;
        let place = usize::try_from(random.below(left)).expect("below a byte");
        let place = places.swap_remove(place);
        let (operation, instance) = (operation.clone(), instance.clone());
        users.insert(place, User { at, operation, attempt: 1, instance });
    }
    FenceFile { uses: u64::from(addresses), users, ..FenceFile::default() }
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, of_seed};
    use super::*;

    #[test]
    fn each_machine_has_used_as_many_addresses_as_the_story_says_in_an_order_of_its_own() {
        for addresses in [0, 100, ADDRESSES] {
            let story = Story { used: addresses, nodes: 3, ..of_seed(1, (3, 3), Profile::Swarm) };
            let world = story.founded();
            assert_eq!(world.fences.len(), 3);
            for fence in &world.fences {
                let used = fence.used();
                let (mut turns, all) =
                    (used.places.into_values().collect::<Vec<_>>(), 1..=u64::from(addresses));
                turns.sort_unstable();
                assert!(turns.into_iter().eq(all), "{fence:?}");
                assert!(fence.users.keys().all(|place| PLACES.contains(place)));
            }
            assert_eq!(world.fences[0] != world.fences[1], addresses > 0);
        }
    }
}
