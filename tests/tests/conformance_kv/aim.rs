//! What is asked next: at random, but more often what was compared too rarely so far.

use proto_core::random::Random;
use sim::claims::StoreClaim as Claim;
use sim::world::kv::MAX_BATCH;

use crate::ask::{Ask, Expect, KEYS, Life, Put, key};
use crate::pair::{Pair, READS, keys};

/// Draws an ask. `missing` are the claims that were not compared often enough; `lives`: whether keys get lives in this run.
pub(crate) fn draw(random: &mut Random, pair: &Pair, missing: &[Claim], lives: bool) -> Ask {
    if pair.down.is_some() {
        let wait = lives && !pair.ends.is_empty() && missing.contains(&Claim::ExpiresAway);
        return match random.below(10) {
            0..2 => read(random),
            2..4 => anything(random, lives),
            4..6 if wait => Ask::Pause,
            _ => Ask::Up,
        };
    }
    let mut wanted: Vec<_> = missing.iter().filter(|claim| lives == needs_lives(**claim)).collect();
    if lives && wanted.is_empty() {
        wanted = missing.iter().collect();
    }
    if random.below(10) < 3 || wanted.is_empty() {
        return match random.below(40) {
            0 => Ask::Down { kill: random.below(2) == 0 },
            1..12 => read(random),
            _ => anything(random, lives),
        };
    }
    let claim = *wanted[pick(random, wanted.len())];
    aim(random, pair, claim).unwrap_or_else(|| anything(random, lives))
}

fn needs_lives(claim: Claim) -> bool {
    matches!(
        claim,
        Claim::BatchMortal
            | Claim::ComesBack
            | Claim::AbsentRefused
            | Claim::Create
            | Claim::CreateAfterEnd
            | Claim::Expires
            | Claim::ExpiresAway
            | Claim::LifeGiven
            | Claim::MadeImmortal
            | Claim::MadeMortal
            | Claim::Outlives
            | Claim::OverwriteAbsent
            | Claim::ReadNothing
            | Claim::RefusedAfterEnd
            | Claim::Renewed
    )
}

/// Something that shows this claim, if there can be.
fn aim(random: &mut Random, pair: &Pair, claim: Claim) -> Option<Ask> {
    let (there, absent) = keys(&pair.kv);
    let ended = || absent.iter().copied().filter(|k| pair.ended.contains(&key(*k))).collect();
    let living = |mortal: bool| {
        let is = |k: &u8| pair.ends.contains_key(&key(*k)) == mortal;
        there.iter().copied().filter(is).collect()
    };
    let some = |keys: Vec<u8>, life| {
        let put = |key| Put { key, expect: Expect::Last, life, value: 1 };
        (!keys.is_empty()).then(|| Ask::Commit(keys.into_iter().take(5).map(put).collect()))
    };
    let mut one = |keys: Vec<u8>, expect, life| {
        let key = *keys.get(pick(random, keys.len()))?;
        Some(Ask::Commit(vec![Put { key, expect, life, value: value(random) }]))
    };
    use Expect::{Absent, Any, Last, Newer, Older};
    use Life::{Endless, Long, Short};
    match claim {
        Claim::ReadFound | Claim::ReadNothing | Claim::ReadSeveral => Some(read(random)),
        Claim::Create => one(absent, Absent, Short),
        Claim::CreateRefused => one(there, Absent, Endless),
        Claim::Update => one(there, Last, Endless),
        Claim::StaleRefused => one(there, Older, Endless),
        Claim::AheadRefused => one(there, Newer, Endless),
        Claim::AbsentRefused => one(absent, Newer, Endless),
        Claim::Overwrite => one(there, Any, Endless),
        Claim::OverwriteAbsent => one(absent, Any, Short),
        Claim::CreateAfterEnd => one(ended(), Absent, Short),
        Claim::RefusedAfterEnd => one(ended(), Last, Endless),
        Claim::LifeGiven => one(living(false), Last, Short),
        Claim::MadeMortal => some(living(false), Short),
        Claim::Renewed => some(living(true), Long),
        Claim::MadeImmortal => some(living(true), Endless),
        Claim::LifeRefused => one(there, Last, Life::Broken),
        Claim::Outlives => Some(batch(random, pair, Long)),
        Claim::Expires | Claim::BatchMortal | Claim::ExpiresAway => {
            Some(if claim == Claim::ExpiresAway && pair.ends.len() > 5 {
                Ask::Down { kill: random.below(2) == 0 }
            } else {
                batch(random, pair, Short)
            })
        }
        Claim::ComesBack => {
            let may = pair.may_come_back() > 2;
            if may { Some(Ask::Down { kill: true }) } else { some(living(false), Short) }
        }
        Claim::BatchTaken => Some(batch(random, pair, Endless)),
        Claim::BatchStaleFirst | Claim::BatchStaleWithin | Claim::BatchStaleLast => {
            let Ask::Commit(mut puts) = batch(random, pair, Endless) else { return None };
            let last = puts.len() - 1;
            let stale = match claim {
                Claim::BatchStaleFirst => 0,
                Claim::BatchStaleWithin => last / 2,
                _ => last,
            };
            puts[stale].expect = Newer;
            Some(Ask::Commit(puts))
        }
        Claim::BatchLargest => Some(Ask::Many(MAX_BATCH)),
        Claim::BatchTooLarge => Some(Ask::Many(MAX_BATCH + 1)),
        Claim::BatchEmpty => Some(Ask::Commit(Vec::new())),
        Claim::BatchTwice => {
            let Ask::Commit(mut puts) = batch(random, pair, Endless) else { return None };
            puts.push(puts[0]);
            Some(Ask::Commit(puts))
        }
        Claim::Killed | Claim::AwayRead => Some(Ask::Down { kill: true }),
        Claim::Stopped | Claim::AwayWrite => Some(Ask::Down { kill: false }),
    }
}

/// A batch of three to six writes whose expectations are right.
fn batch(random: &mut Random, pair: &Pair, life: Life) -> Ask {
    let (there, _) = keys(&pair.kv);
    let mut puts: Vec<Put> = Vec::new();
    let count = 3 + pick(random, 4);
    while puts.len() < count {
        let key = u8::try_from(random.below(KEYS.into())).expect("small");
        if puts.iter().all(|put| put.key != key) {
            let right = if there.contains(&key) { Expect::Last } else { Expect::Absent };
            let expect = if random.below(4) == 0 { Expect::Any } else { right };
            puts.push(Put { key, expect, life, value: value(random) });
        }
    }
    Ask::Commit(puts)
}

fn read(random: &mut Random) -> Ask {
    let count = 1 + random.below(3);
    Ask::Read((0..count).map(|_| u8::try_from(random.below(READS)).expect("small")).collect())
}

fn anything(random: &mut Random, lives: bool) -> Ask {
    let count = if random.below(2) == 0 { 1 } else { 1 + random.below(4) };
    let put = |random: &mut Random| Put {
        key: u8::try_from(random.below(KEYS.into())).expect("small"),
        expect: match random.below(10) {
            0 => Expect::Any,
            1 | 2 => Expect::Absent,
            3 => Expect::Older,
            4 => Expect::Newer,
            _ => Expect::Last,
        },
        life: match random.below(10) {
            0..4 if lives => Life::Short,
            4..7 if lives => Life::Long,
            _ => Life::Endless,
        },
        value: value(random),
    };
    Ask::Commit((0..count).map(|_| put(random)).collect())
}

fn value(random: &mut Random) -> u16 {
    u16::try_from(random.below(1000)).expect("small")
}

fn pick(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).expect("small")
}
