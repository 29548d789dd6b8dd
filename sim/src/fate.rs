//! What can become of an effect.

use proto_core::coordination::command::CommandBody;
use proto_core::daemon::EffectKind;
use proto_core::store::StoreRequest;

/// What becomes of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It happens and its answer arrives.
    Normal,
    /// The daemon dies before it.
    CrashBefore,
    /// It happens, and the daemon dies before the answer.
    CrashAfter,
    /// The daemon dies; the effect is under way and lands later.
    CrashLate(Later),
    /// The whole daemon stands still for a minute, with the effect under way.
    Pause,
    /// It happens; the answer is lost.
    LostAnswer,
    /// It never happens, and nobody says so.
    LostRequest,
    /// There is no answer, and it lands later.
    Late(Later),
    /// There is no answer, it lands later, and until then others' writes of its keys are undecided too.
    Undecided(Later),
    /// It happens now, and once more later.
    Twice(Later),
    /// It fails and says so.
    Fails,
}

/// When something that is under way lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// Before the n-th effect that follows is issued.
    Effects(u64),
    /// When everything has come to rest.
    AtRest,
}

/// How much may still go wrong in a run, and how finely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Daemons that may still die or stand still.
    pub crashes: u32,
    /// Answers that may still be lost, and the like.
    pub faults: u32,
    /// When late effects may land.
    pub later: Vec<Later>,
}

impl Budget {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self { crashes: 0, faults: 0, later: Vec::new() }
    }

    /// Up to so many crashes and other faults, with effects that land after these numbers of others, or at rest.
    #[must_use]
    pub fn new(crashes: u32, faults: u32, later: &[u64]) -> Self {
        let numbered = later.iter().map(|n| Later::Effects(*n));
        Self { crashes, faults, later: numbered.chain([Later::AtRest]).collect() }
    }

    /// What can become of this effect, [`Fate::Normal`] first. `own`: it is a message to the sender's own machine;
    /// `alone`: there is no other machine.
    #[must_use]
    pub fn fates(&self, effect: &EffectKind, own: bool, alone: bool) -> Vec<Fate> {
        let mut fates = vec![Fate::Normal];
        if self.crashes == 0 && self.faults == 0 {
            return fates;
        }
        let later = |fate: fn(Later) -> Fate| self.later.iter().copied().map(fate);
        let (changes, distinct) = match effect {
            EffectKind::Store(StoreRequest::Read { .. }) | EffectKind::Routes(_) => (false, false),
            EffectKind::Store(StoreRequest::Commit { .. }) => (true, true),
            // The receiver dies with the sender, so that it arrives makes no difference unless it comes later.
            EffectKind::Send { command, .. } => {
                let looks = matches!(command.body, CommandBody::Observe { .. });
                (!looks, !looks && !own)
            }
            EffectKind::Runtime(request) => (request.mutates().is_some(), true),
            EffectKind::Persist(_) => (false, true),
            EffectKind::Reply { .. } => (false, !alone),
        };
        if self.crashes > 0 {
            fates.push(Fate::CrashBefore);
            if distinct && (changes || !matches!(effect, EffectKind::Runtime(_))) {
                fates.push(Fate::CrashAfter);
            }
            if changes {
                fates.extend(later(Fate::CrashLate));
            }
            if !alone {
                fates.push(Fate::Pause);
            }
        }
        if self.faults > 0 {
            match effect {
                EffectKind::Store(StoreRequest::Read { .. }) => {
                    fates.extend([Fate::LostAnswer, Fate::Fails]);
                }
                EffectKind::Store(StoreRequest::Commit { .. }) => {
                    fates.extend([Fate::LostAnswer, Fate::LostRequest, Fate::Fails]);
                    fates.extend(later(Fate::Late));
                    fates.extend(later(Fate::Undecided).filter(|fate| {
                        // A write that stays undecided until rest would keep the store from ever answering.
                        !matches!(fate, Fate::Undecided(Later::AtRest))
                    }));
                }
                EffectKind::Send { .. } => {
                    fates.extend([Fate::LostAnswer, Fate::LostRequest, Fate::Fails]);
                    if changes {
                        fates.extend(later(Fate::Late).chain(later(Fate::Twice)));
                    }
                }
                EffectKind::Runtime(_) if changes => {
                    fates.extend([Fate::LostAnswer, Fate::LostRequest, Fate::Fails]);
                    fates.extend(later(Fate::Late));
                }
                EffectKind::Runtime(_) => fates.extend([Fate::LostAnswer, Fate::Fails]),
                EffectKind::Persist(_) | EffectKind::Routes(_) => fates.push(Fate::Fails),
                EffectKind::Reply { .. } => fates.push(Fate::LostRequest),
            }
        }
        fates
    }

    /// Takes a fate from the budget.
    pub fn spend(&mut self, fate: Fate) {
        match fate {
            Fate::Normal => {}
            Fate::CrashBefore | Fate::CrashAfter | Fate::CrashLate(_) | Fate::Pause => {
                self.crashes -= 1;
            }
            _ => self.faults -= 1,
        }
    }
}
