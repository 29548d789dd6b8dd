//! What can become of an effect.

use std::cell::RefCell;
use std::time::Duration;

use proto_core::coordination::command::CommandBody;
use proto_core::daemon::EffectKind;
use proto_core::random::Random;
use proto_core::store::StoreRequest;

use crate::choice::Choices;

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
    /// It happens, and right then the operator asks to cancel.
    Cancel,
    /// It happens, and right then a second operator comes, on another machine.
    Rival(Rival),
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

/// What a second operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// To go on with what is unfinished.
    Resumes,
    /// To undo it.
    Aborts,
}

/// When something that is under way lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// Before the n-th effect that follows is issued.
    Effects(u64),
    /// After so much time.
    After(Duration),
    /// When everything has come to rest.
    AtRest,
}

/// Where and when an effect is issued, as far as it matters for what can become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// It is a message to the sender's own machine.
    pub own: bool,
    /// There is no other machine.
    pub alone: bool,
    /// It is the daemon that the operator has asked, and he may cancel.
    pub asked: bool,
    /// An operator waits for an answer, and there is something unfinished and another machine on which a second one could take it up.
    pub contested: bool,
}

/// Who decides what becomes of effects.
#[derive(Debug, Clone)]
pub enum Fates<'a> {
    /// A choice for each effect, within a budget.
    Chosen(&'a RefCell<Choices>, Budget),
    /// What a story says; everything else goes well.
    Told(Told),
}

/// The effects that a story strikes.
#[derive(Debug, Clone)]
pub struct Told {
    /// Those that are still to come.
    pub strikes: Vec<Strike>,
    /// Those that came, by the name of their class.
    pub struck: Vec<&'static str>,
    /// Decides what a story leaves open.
    pub random: Random,
}

/// One effect that is struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// The machine that issues it.
    pub machine: usize,
    /// Which of its effects.
    pub class: EffectClass,
    /// So many of them go well before.
    pub skip: u32,
    /// What becomes of it.
    pub fate: Fate,
    /// The name of the fault, for counting.
    pub name: &'static str,
}

/// Effects of a kind.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum EffectClass {
    /// Reads of the store.
    Read,
    /// Batches for the store.
    Write,
    /// The batch that moves a head.
    Commit,
    /// Commands that change something.
    Command,
    /// Changes of an instance.
    Runtime,
    /// The fence file.
    Persist,
    /// Answers to commands.
    Reply,
}

impl EffectClass {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Write,
        Self::Commit,
        Self::Command,
        Self::Runtime,
        Self::Persist,
        Self::Reply,
    ];

    /// Its name in a story.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Commit => "commit",
            Self::Command => "command",
            Self::Runtime => "runtime",
            Self::Persist => "persist",
            Self::Reply => "reply",
        }
    }

    fn takes(self, effect: &EffectKind) -> bool {
        match (self, effect) {
            (Self::Read, EffectKind::Store(StoreRequest::Read { .. }))
            | (Self::Write, EffectKind::Store(StoreRequest::Commit { .. }))
            | (Self::Persist, EffectKind::Persist(_))
            | (Self::Reply, EffectKind::Reply { .. }) => true,
            (Self::Commit, EffectKind::Store(StoreRequest::Commit { writes })) => {
                writes.iter().any(|write| write.key.as_str().ends_with(".head"))
            }
            (Self::Command, EffectKind::Send { command, .. }) => {
                !matches!(command.body, CommandBody::Observe { .. })
            }
            (Self::Runtime, EffectKind::Runtime(request)) => request.mutates().is_some(),
            _ => false,
        }
    }
}

impl Fates<'_> {
    /// Whether each effect is a choice.
    pub(crate) fn are_chosen(&self) -> bool {
        matches!(self, Self::Chosen(..))
    }

    /// What becomes of this effect of this machine.
    pub(crate) fn of(
        &mut self,
        machine: usize,
        effect: &EffectKind,
        at: Place,
        label: impl FnOnce() -> String,
    ) -> Fate {
        match self {
            Self::Chosen(choices, budget) => {
                let fates = budget.fates(effect, at);
                let fate = if fates.len() == 1 {
                    Fate::Normal
                } else {
                    fates[choices.borrow_mut().seldom(fates.len(), 60, label)]
                };
                budget.spend(fate);
                fate
            }
            Self::Told(told) => told.of(machine, effect),
        }
    }

    /// One of `bound` ways that are all right.
    pub(crate) fn either(&mut self, bound: usize, label: impl FnOnce() -> String) -> usize {
        match self {
            Self::Chosen(choices, _) => choices.borrow_mut().choose(bound, label),
            Self::Told(told) => {
                usize::try_from(told.random.below(bound as u64)).expect("below a usize")
            }
        }
    }

    /// The budget, if there is one.
    #[must_use]
    pub fn budget(&self) -> Budget {
        match self {
            Self::Chosen(_, budget) => budget.clone(),
            Self::Told(_) => Budget::none(),
        }
    }

    /// Whether anything may still go wrong by choice.
    pub(crate) fn are_open(&self) -> bool {
        matches!(self, Self::Chosen(_, budget) if budget.is_open())
    }

    /// Whether a second operator may come.
    pub(crate) fn may_be_contested(&self) -> bool {
        matches!(self, Self::Chosen(_, budget) if budget.rivals > 0)
    }

    /// Nothing goes wrong any more.
    pub fn end(&mut self) {
        match self {
            Self::Chosen(_, budget) => *budget = Budget::none(),
            Self::Told(told) => told.strikes.clear(),
        }
    }
}

impl Told {
    fn of(&mut self, machine: usize, effect: &EffectKind) -> Fate {
        let mine = |strike: &Strike| strike.machine == machine && strike.class.takes(effect);
        let Some(at) = self.strikes.iter().position(mine) else { return Fate::Normal };
        let strike = &mut self.strikes[at];
        if strike.skip > 0 {
            strike.skip -= 1;
            return Fate::Normal;
        }
        let strike = self.strikes.remove(at);
        self.struck.push(strike.name);
        strike.fate
    }
}

/// How much may still go wrong in a run, and how finely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Daemons that may still die or stand still.
    pub crashes: u32,
    /// Answers that may still be lost, and the like.
    pub faults: u32,
    /// How often the operator may still cancel.
    pub cancels: u32,
    /// How often a second operator may still come, who resumes or aborts at the same time, at any effect.
    pub rivals: u32,
    /// When late effects may land.
    pub later: Vec<Later>,
}

impl Budget {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self { crashes: 0, faults: 0, cancels: 0, rivals: 0, later: Vec::new() }
    }

    /// Up to so many crashes and other faults, with effects that land after these numbers of others, or at rest.
    #[must_use]
    pub fn new(crashes: u32, faults: u32, later: &[u64]) -> Self {
        let numbered = later.iter().map(|n| Later::Effects(*n));
        let later = numbered.chain([Later::AtRest]).collect();
        Self { crashes, faults, cancels: 0, rivals: 0, later }
    }

    /// How much may still go wrong.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.crashes + self.faults + self.cancels + self.rivals
    }

    /// Whether anything may still go wrong.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.left() > 0
    }

    /// What can become of this effect, [`Fate::Normal`] first.
    #[must_use]
    pub fn fates(&self, effect: &EffectKind, at: Place) -> Vec<Fate> {
        let mut fates = vec![Fate::Normal];
        let Place { own, alone, asked, contested } = at;
        if self.cancels > 0 && asked {
            fates.push(Fate::Cancel);
        }
        if self.rivals > 0 && contested {
            fates.extend([Fate::Rival(Rival::Resumes), Fate::Rival(Rival::Aborts)]);
        }
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
            Fate::Cancel => self.cancels -= 1,
            Fate::Rival(_) => self.rivals -= 1,
            _ => self.faults -= 1,
        }
    }
}
