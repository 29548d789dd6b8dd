use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::heard::{Fact, Heard, Said, What};
use crate::id::Namespace;
use crate::store::facts::{Commit, Head, VERSION};
use crate::store::{Key, Revision};
use crate::time::UnixTime;

/// The commit that serves in each namespace.
pub type Commits = BTreeMap<Namespace, Served>;

/// What serves in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Where its head was written.
    pub head: Revision,
    /// The commit that the head names.
    #[serde(with = "crate::shared")]
    pub commit: Arc<Commit>,
}

/// How many commits of a namespace are held that its head does not name yet.
const MAX_PENDING: usize = 8;
/// How many namespaces are followed.
const MAX_NAMESPACES: usize = 20_000;
/// How many problems [`ProjectionStatus`] lists.
const MAX_PROBLEMS: usize = 20;
/// How long a problem's text may be, in bytes.
const MAX_PROBLEM: usize = 300;

/// Follows heads and commits, and holds the last good state of each namespace.
///
/// * The driver feeds what the store's follower says through [`Projection::handle_input`], with the wall-clock time, which is
///   only shown and stored.
/// * It drains [`Projection::poll_effect`] after each input: `Publish` is the state to serve from now on, `Persist` is what a
///   later start gives to [`Projection::restore`].
/// * [`Projection::status`] says what is served and how far it can be trusted.
///
/// A load is built aside and takes over when it is complete. What can't be read changes nothing in its namespace and is
/// reported. While the store is away, the last state goes on and is marked stale.
#[derive(Debug, Clone)]
pub struct Projection {
    live: State,
    /// The load in progress.
    staging: Option<State>,
    /// Up to where `live` reflects the stream, but for what waits.
    position: Revision,
    loaded: bool,
    stale: Option<Stale>,
    away: bool,
    /// A load brought nothing at all where there was something: `live` is kept, and no longer what the store says.
    lost: bool,
    served: Commits,
    effects: VecDeque<Effect>,
}

/// What the driver does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Serve this from now on.
    Publish(Commits),
    /// Keep this for the next start. A later one replaces it, so a driver may write only the last of several.
    Persist(Snapshot),
}

/// The last good state, as it is kept on disk: JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Shape version.
    pub v: u32,
    /// When it was made.
    pub at: UnixTime,
    /// The position that it reflects.
    pub applied: Revision,
    /// What served.
    pub commits: Commits,
}

/// Why a snapshot can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot has version {0}, this build reads up to {VERSION}")]
pub struct SnapshotError(u32);

/// Since when, and why, what is served may be behind the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// Since when.
    pub since: UnixTime,
    /// Why.
    pub reason: String,
}

/// What is served, and how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectionStatus {
    /// False until there was a complete load or a snapshot: there is nothing to serve.
    pub loaded: bool,
    /// Everything up to this position was heard.
    pub position: Revision,
    /// Every head up to this position is served. Below `position` while a head waits for its commit or can't be read.
    pub applied: Revision,
    /// `None`: it is what the store says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// What serves in each namespace.
    pub namespaces: BTreeMap<Namespace, NamespaceStatus>,
    /// What could not be read, by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What serves in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// The number of its commit; `None`: nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
    /// Every head *of this namespace* up to this position is served: another namespace's trouble doesn't hold it back.
    pub applied: Revision,
}

impl ProjectionStatus {
    /// Up to where every head of one namespace, or of all, is served.
    #[must_use]
    pub fn applied(&self, namespace: Option<&Namespace>) -> Revision {
        match namespace {
            None => self.applied,
            Some(ns) => self.namespaces.get(ns).map_or(self.position, |status| status.applied),
        }
    }
}

/// The namespaces as one load or the live stream built them.
#[derive(Debug, Clone, Default)]
struct State {
    namespaces: BTreeMap<Namespace, Tracked>,
    /// Some namespace had a head or a commit, be it one that says that it was removed.
    heard: bool,
    overflow: bool,
}

#[derive(Debug, Clone, Default)]
struct Tracked {
    served: Option<Served>,
    /// A head that is not served yet, because its commit is not here or it can't be read.
    waiting: Option<(Revision, Option<u64>)>,
    /// Commits that a head may name soon: by number, with where they were written.
    pending: BTreeMap<u64, (Revision, Arc<Commit>)>,
    /// What could not be read since the last head that could, with its key.
    problem: Option<String>,
}

impl Default for Projection {
    fn default() -> Self {
        Self::new()
    }
}

impl Projection {
    /// Nothing to serve, until a load is complete.
    #[must_use]
    pub fn new() -> Self {
        Self {
            live: State::default(),
            staging: Some(State::default()),
            position: Revision::ABSENT,
            loaded: false,
            stale: None,
            away: false,
            lost: false,
            served: Commits::new(),
            effects: VecDeque::new(),
        }
    }

    /// Serves a snapshot, marked stale since it was made, until a load is complete.
    ///
    /// # Errors
    ///
    /// If a newer build wrote it.
    pub fn restore(snapshot: Snapshot) -> Result<Self, SnapshotError> {
        if snapshot.v > VERSION {
            return Err(SnapshotError(snapshot.v));
        }
        let mut projection = Self::new();
        for (namespace, served) in snapshot.commits {
            let tracked = Tracked { served: Some(served), ..Tracked::default() };
            projection.live.namespaces.insert(namespace, tracked);
        }
        projection.position = snapshot.applied;
        projection.loaded = true;
        projection.stale = Some(Stale {
            since: snapshot.at,
            reason: "restored from disk, the store was not read yet".to_owned(),
        });
        projection.served = projection.live.commits();
        projection.effects.push_back(Effect::Publish(projection.served.clone()));
        Ok(projection)
    }

    /// Feeds one event; then [`Projection::poll_effect`] is to be drained.
    pub fn handle_input(&mut self, now: UnixTime, event: impl Into<Heard>) {
        match event.into().0 {
            Said::Fact(fact) => self.written(now, fact),
            Said::Position(position) => {
                if self.staging.is_none() {
                    self.position = self.position.max(position);
                }
            }
            Said::CaughtUp(position) => self.caught_up(now, position),
            Said::Uncertain(reason) => {
                self.staging = Some(State::default());
                self.mark_stale(now, reason);
            }
            Said::Away(reason) => {
                self.away = true;
                self.mark_stale(now, format!("the store is away: {reason}"));
            }
            Said::Back => {
                self.away = false;
                if self.staging.is_none() && !self.lost {
                    self.stale = None;
                }
            }
            Said::Other => {}
        }
    }

    /// What is to be done next.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What is served now.
    #[must_use]
    pub fn served(&self) -> &Commits {
        &self.served
    }

    /// What is served, and how far it can be trusted.
    #[must_use]
    pub fn status(&self) -> ProjectionStatus {
        let namespaces: BTreeMap<_, _> = self
            .live
            .namespaces
            .iter()
            .map(|(ns, tracked)| {
                let status = NamespaceStatus {
                    commit: tracked.served.as_ref().map(|served| served.commit.number),
                    applied: tracked.applied(self.position),
                };
                (ns.clone(), status)
            })
            .collect();
        let mut problems: Vec<String> = self
            .live
            .namespaces
            .values()
            .filter_map(|tracked| tracked.problem.clone())
            .take(MAX_PROBLEMS)
            .collect();
        if self.live.overflow {
            problems.push(format!("more than {MAX_NAMESPACES} namespaces: the rest is not served"));
        }
        ProjectionStatus {
            loaded: self.loaded,
            position: self.position,
            applied: self.applied(None),
            stale: self.stale.clone(),
            namespaces,
            problems,
        }
    }

    /// Up to where every head of one namespace, or of all, is served.
    #[must_use]
    pub fn applied(&self, namespace: Option<&Namespace>) -> Revision {
        let applied = |tracked: &Tracked| tracked.applied(self.position);
        let namespaces = &self.live.namespaces;
        match namespace {
            None => namespaces.values().map(applied).fold(self.position, Ord::min),
            Some(namespace) => namespaces.get(namespace).map_or(self.position, applied),
        }
    }

    /// Whether what is served may be behind the store.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale.is_some()
    }

    fn written(&mut self, now: UnixTime, fact: Fact) {
        if let Some(staging) = &mut self.staging {
            staging.written(fact);
            return;
        }
        self.position = self.position.max(fact.revision);
        let changed = self.live.written(fact);
        if changed && self.publish(now) && std::mem::take(&mut self.lost) && !self.away {
            self.stale = None;
        }
    }

    fn caught_up(&mut self, now: UnixTime, position: Revision) {
        if let Some(mut loaded) = self.staging.take() {
            self.away = false;
            self.position = position;
            if !loaded.heard && !self.live.namespaces.is_empty() {
                // A namespace that is removed leaves a head that says so, so a store without a single head, where there were
                // some, has lost them.
                self.lost = true;
                self.mark_stale(now, "the store holds no namespace any more".to_owned());
                return;
            }
            for (namespace, tracked) in &mut loaded.namespaces {
                if tracked.served.is_none() && tracked.problem.is_some() {
                    tracked.served = self.live.namespaces.remove(namespace).and_then(|t| t.served);
                }
            }
            self.live = loaded;
        } else {
            self.position = self.position.max(position);
        }
        (self.away, self.lost) = (false, false);
        self.stale = None;
        let first = !std::mem::replace(&mut self.loaded, true);
        if !self.publish(now) && first {
            // An empty cluster is something to serve too.
            self.effects.push_back(Effect::Publish(self.served.clone()));
            self.persist(now);
        }
    }

    /// Publishes what is served if it changed.
    fn publish(&mut self, now: UnixTime) -> bool {
        let commits = self.live.commits();
        if commits == self.served {
            return false;
        }
        self.served = commits;
        self.effects.push_back(Effect::Publish(self.served.clone()));
        self.persist(now);
        true
    }

    fn persist(&mut self, at: UnixTime) {
        let applied = self.applied(None);
        let commits = self.served.clone();
        self.effects.push_back(Effect::Persist(Snapshot { v: VERSION, at, applied, commits }));
    }

    /// Keeps the first time: the age counts from when the state was last known to be the store's.
    fn mark_stale(&mut self, now: UnixTime, reason: String) {
        let since = self.stale.as_ref().map_or(now, |stale| stale.since);
        self.stale = Some(Stale { since, reason: clip(reason) });
    }
}

impl State {
    fn commits(&self) -> Commits {
        let served = self.namespaces.iter();
        served.filter_map(|(ns, tracked)| Some((ns.clone(), tracked.served.clone()?))).collect()
    }

    /// Whether it changed what serves.
    fn written(&mut self, Fact { namespace, key, revision, what }: Fact) -> bool {
        if !self.namespaces.contains_key(&namespace) && self.namespaces.len() >= MAX_NAMESPACES {
            self.overflow = true;
            return false;
        }
        self.heard = true;
        let tracked = self.namespaces.entry(namespace.clone()).or_default();
        let before = tracked.served.clone();
        let result = match what {
            What::Head(head) => tracked.head(revision, head),
            What::Commit(number, commit) => tracked.commit(number, revision, commit),
        };
        match result {
            Ok(()) if tracked.waiting.is_none() => tracked.problem = None,
            Ok(()) => {
                if let Some((at, Some(number))) = tracked.waiting {
                    tracked.problem.get_or_insert_with(|| {
                        format!(
                            "{}: the head written at {at} names commit {number}, which is not here",
                            Key::head(&namespace)
                        )
                    });
                }
            }
            Err(reason) => tracked.problem = Some(clip(format!("{key} at {revision}: {reason}"))),
        }
        let changed = tracked.served != before;
        if tracked.is_idle() {
            self.namespaces.remove(&namespace);
        }
        changed
    }
}

impl Tracked {
    /// Nothing is known of the namespace: it was removed.
    fn is_idle(&self) -> bool {
        self.served.is_none()
            && self.waiting.is_none()
            && self.pending.is_empty()
            && self.problem.is_none()
    }

    /// Up to where this namespace is served, given that everything up to `position` was heard.
    fn applied(&self, position: Revision) -> Revision {
        match self.waiting {
            Some((head, _)) => position.min(Revision(head.0.saturating_sub(1))),
            None => position,
        }
    }

    fn head(&mut self, revision: Revision, head: Result<Head, String>) -> Result<(), String> {
        let head = match head {
            Ok(head) => head,
            Err(reason) => {
                self.waiting = Some((revision, None));
                return Err(reason);
            }
        };
        if head.removed && !crate::mutant::on(crate::mutant::Mutant::RemovalNotServed) {
            *self = Self::default();
            return Ok(());
        }
        if let Some(served) = &mut self.served
            && served.commit.number == head.commit
        {
            served.head = revision;
            self.waiting = None;
            return Ok(());
        }
        self.waiting = Some((revision, Some(head.commit)));
        self.settle();
        Ok(())
    }

    fn commit(
        &mut self,
        number: u64,
        revision: Revision,
        commit: Result<Arc<Commit>, String>,
    ) -> Result<(), String> {
        let wanted = matches!(self.waiting, Some((_, Some(n))) if n == number);
        let past = self.served.as_ref().is_some_and(|served| number <= served.commit.number);
        if past && !wanted {
            // Commits are immutable, and one that the head has left behind is nobody's: it may be a rewrite that lets it expire.
            return Ok(());
        }
        self.pending.insert(number, (revision, commit?));
        self.settle();
        if self.pending.len() > MAX_PENDING {
            let oldest = self.pending.iter().min_by_key(|(_, (at, _))| *at).map(|(n, _)| *n);
            oldest.and_then(|number| self.pending.remove(&number));
        }
        Ok(())
    }

    /// Serves the commit that the head names, once both are here.
    fn settle(&mut self) {
        if let Some((head, Some(number))) = self.waiting
            && let Some((_, commit)) = self.pending.remove(&number)
        {
            self.served = Some(Served { head, commit });
            self.waiting = None;
            self.pending.retain(|later, _| *later > number);
        }
    }
}

fn clip(mut text: String) -> String {
    if text.len() > MAX_PROBLEM {
        let mut end = MAX_PROBLEM;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
#[path = "projection_tests.rs"]
pub(super) mod tests;
