//! The one source of every choice that a run makes: what fails, when, and in which order.
//!
//! A run asks [`Choices::choose`] and nothing else, so a run is its list of answers. Four forms: an exhaustive one that
//! walks through all lists in order, a seeded one, a recorded one that plays a list back, and one that reads a fuzzer's bytes.

use proto_core::random::Random;

/// An answer that was given: which of how many, and what it was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The answer, below `bound`.
    pub value: usize,
    /// How many answers there were.
    pub bound: usize,
    /// What it was about, for people; empty where all lists are walked through, so that nobody reads it.
    pub label: String,
}

#[derive(Debug, Clone)]
enum Form {
    /// Takes the answers of `taken` as far as they go, then 0. The first so many never change.
    Exhaustive {
        fixed: usize,
    },
    Seeded(Random),
    /// Takes these answers, then 0.
    Recorded(Vec<usize>),
    /// Reads these in order, then 0.
    Bytes(std::vec::IntoIter<u8>),
}

/// Gives answers and remembers them.
#[derive(Debug, Clone)]
pub struct Choices {
    form: Form,
    taken: Vec<Choice>,
    position: usize,
}

impl Choices {
    /// All lists of answers, one a run: run, then [`Choices::advance`], until that says that there is none left.
    ///
    /// The odometer: answers after the position that moved are forgotten, so runs may differ in length and in what they ask.
    #[must_use]
    pub fn exhaustive() -> Self {
        Self::new(Form::Exhaustive { fixed: 0 })
    }

    /// The same for all lists that begin with these answers (each with its bound).
    #[must_use]
    pub fn exhaustive_from(prefix: Vec<Choice>) -> Self {
        let form = Form::Exhaustive { fixed: prefix.len() };
        Self { form, taken: prefix, position: 0 }
    }

    /// Answers that follow from a seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::new(Form::Seeded(Random::new(seed)))
    }

    /// These answers, and 0 after the last.
    #[must_use]
    pub fn recorded(answers: Vec<usize>) -> Self {
        Self::new(Form::Recorded(answers))
    }

    /// Answers read from bytes in order, and 0 after the last: a bound of up to 256 takes one byte, a larger one as many as it needs,
    /// the highest first.
    #[must_use]
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self::new(Form::Bytes(bytes.into_iter()))
    }

    fn new(form: Form) -> Self {
        Self { form, taken: Vec::new(), position: 0 }
    }

    /// One of `0..bound`; 0 is what happens when nothing goes wrong. `label` says what it is about.
    ///
    /// # Panics
    ///
    /// If `bound` is 0, or if the run is not deterministic: the exhaustive form must be asked the same after the same answers.
    pub fn choose(&mut self, bound: usize, label: impl FnOnce() -> String) -> usize {
        assert!(bound > 0, "a choice needs an answer");
        let position = self.position;
        self.position += 1;
        if let (Form::Exhaustive { .. }, Some(choice)) = (&self.form, self.taken.get(position)) {
            assert_eq!(choice.bound, bound, "the run is not deterministic at choice {position}");
            return choice.value;
        }
        let value = match &mut self.form {
            Form::Exhaustive { .. } => 0,
            Form::Seeded(random) => {
                usize::try_from(random.below(bound as u64)).expect("below a usize")
            }
            Form::Recorded(answers) => answers.get(position).copied().unwrap_or(0).min(bound - 1),
            Form::Bytes(bytes) => read(bytes, bound),
        };
        let label = if self.is_exhaustive() { String::new() } else { label() };
        self.taken.push(Choice { value, bound, label });
        value
    }

    /// With the given chance in a thousand an answer other than 0. Seeded runs would otherwise break everything at once;
    /// the other forms choose as ever.
    pub fn seldom(
        &mut self,
        bound: usize,
        per_mille: u64,
        label: impl FnOnce() -> String,
    ) -> usize {
        if let Form::Seeded(random) = &mut self.form
            && random.below(1000) >= per_mille
        {
            self.position += 1;
            self.taken.push(Choice { value: 0, bound, label: label() });
            return 0;
        }
        self.choose(bound, label)
    }

    /// The answers so far.
    #[must_use]
    pub fn taken(&self) -> &[Choice] {
        &self.taken[..self.position.min(self.taken.len())]
    }

    /// Of a recorded list that was played: the first answer that this run had no use for, for people.
    #[must_use]
    pub fn misfit(&self) -> Option<String> {
        let Form::Recorded(answers) = &self.form else { return None };
        let mut odd = answers.iter().enumerate().filter(|(_, answer)| **answer != 0);
        odd.find_map(|(at, answer)| match self.taken.get(at) {
            None => Some(format!("the run has {} choices, and no choice {at}", self.taken.len())),
            Some(choice) if choice.value != *answer => {
                Some(format!("choice {at} has the answers 0 to {}, not {answer}", choice.bound - 1))
            }
            Some(_) => None,
        })
    }

    fn is_exhaustive(&self) -> bool {
        matches!(self.form, Form::Exhaustive { .. })
    }

    /// How many answers were given in this run.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Whether the answers that were set down beforehand are all given: from here on it is the first run of its list.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.position >= self.taken.len()
    }

    /// Goes back to where so many answers had been given. Only for the exhaustive form.
    pub fn go_back_to(&mut self, position: usize) {
        assert!(self.is_exhaustive() && position <= self.taken.len(), "only to where it was");
        self.position = position;
    }

    /// Goes to the next list, and says which answer is the first that changes; `None` if there is no list left. Only for the exhaustive
    /// form.
    pub fn advance(&mut self) -> Option<usize> {
        let Form::Exhaustive { fixed } = self.form else { panic!("only the odometer advances") };
        self.taken.truncate(self.position);
        self.position = 0;
        while self.taken.len() > fixed
            && let Some(last) = self.taken.last_mut()
        {
            if last.value + 1 < last.bound {
                last.value += 1;
                return Some(self.taken.len() - 1);
            }
            self.taken.pop();
        }
        None
    }
}

/// The next answer below `bound`; a bound of 1 takes a byte as well, so that what follows keeps its place.
fn read(bytes: &mut impl Iterator<Item = u8>, bound: usize) -> usize {
    let (mut value, mut highest) = (0, bound - 1);
    loop {
        value = value << 8 | usize::from(bytes.next().unwrap_or(0));
        highest >>= 8;
        if highest == 0 {
            return value % bound;
        }
    }
}

/// The answers other than 0, as `position=value`, which [`parse`] reads back.
#[must_use]
pub fn sparse(taken: &[Choice]) -> String {
    let odd = taken.iter().enumerate().filter(|(_, choice)| choice.value != 0);
    odd.map(|(at, choice)| format!("{at}={}", choice.value)).collect::<Vec<_>>().join(",")
}

/// Reads what [`sparse`] wrote. The empty text is the run in which nothing goes wrong.
///
/// # Errors
///
/// A sentence, if it is no such list.
pub fn parse(text: &str) -> Result<Vec<usize>, String> {
    let mut answers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let pair = part
            .split_once('=')
            .and_then(|(at, value)| Some((at.parse().ok()?, value.parse().ok()?)));
        let Some((at, value)) = pair else {
            return Err(format!("{part:?} is no choice: write position=answer, for example 17=2"));
        };
        if at > 1_000_000 {
            return Err(format!("no run has a choice number {at}"));
        }
        if answers.len() <= at {
            answers.resize(at + 1, 0);
        }
        answers[at] = value;
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_list_that_does_not_fit_says_where() {
        let misfit = |answers: &[usize]| {
            let mut choices = Choices::recorded(answers.to_vec());
            for bound in [3, 1, 4] {
                choices.choose(bound, String::new);
            }
            choices.misfit()
        };
        assert_eq!(misfit(&[2, 0, 3, 0, 0]), None);
        assert_eq!(misfit(&[0, 1]).unwrap(), "choice 1 has the answers 0 to 0, not 1");
        assert_eq!(misfit(&[0, 0, 0, 0, 7]).unwrap(), "the run has 3 choices, and no choice 4");
    }

    fn all(run: impl Fn(&mut Choices) -> Vec<usize>) -> Vec<Vec<usize>> {
        let (mut choices, mut seen) = (Choices::exhaustive(), Vec::new());
        loop {
            seen.push(run(&mut choices));
            if choices.advance().is_none() {
                return seen;
            }
        }
    }

    #[test]
    fn the_odometer_visits_every_list_once_also_when_lists_differ_in_length() {
        let seen = all(|choices| {
            let first = choices.choose(3, String::new);
            let rest = (0..first).map(|_| choices.choose(2, String::new));
            std::iter::once(first).chain(rest.collect::<Vec<_>>()).collect()
        });
        let mut unique = seen.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(seen.len(), 1 + 2 + 4);
        assert_eq!(unique.len(), seen.len());
    }

    #[test]
    fn the_lists_that_begin_differently_make_up_all_lists() {
        let run = |choices: &mut Choices| -> Vec<usize> {
            (0..3).map(|_| choices.choose(3, String::new)).collect()
        };
        let mut seen = vec![vec![0, 0, 0]];
        for (at, value) in (0..3).flat_map(|at| [(at, 1), (at, 2)]) {
            let answer = |n| Choice {
                value: if n == at { value } else { 0 },
                bound: 3,
                label: String::new(),
            };
            let mut choices = Choices::exhaustive_from((0..=at).map(answer).collect());
            loop {
                seen.push(run(&mut choices));
                if choices.advance().is_none() {
                    break;
                }
            }
        }
        seen.sort();
        let mut every = all(run);
        every.sort();
        assert_eq!(seen, every);
    }

    #[test]
    fn a_run_is_its_list_of_answers() {
        let mut seeded = Choices::seeded(7);
        let drawn: Vec<_> = (0..50).map(|n| seeded.choose(1 + n % 5, String::new)).collect();
        let text = sparse(seeded.taken());
        let mut replay = Choices::recorded(parse(&text).unwrap());
        let again: Vec<_> = (0..50).map(|n| replay.choose(1 + n % 5, String::new)).collect();
        assert_eq!(drawn, again);
    }

    #[test]
    fn bytes_are_answers_in_order_and_then_nothing_goes_wrong() {
        let mut choices = Choices::bytes(vec![7, 255, 1, 2, 9]);
        let drawn = [5, 256, 257, 1000, 3].map(|bound| choices.choose(bound, String::new));
        assert_eq!(drawn, [2, 255, 0x0102 % 257, 0x0900 % 1000, 0]);
    }

    #[test]
    fn bytes_reach_the_ends_of_every_bound() {
        for bound in [1, 2, 255, 256, 257, 65_536, 65_537, usize::MAX] {
            let highest = (bound - 1).to_be_bytes();
            let skipped = highest.iter().take_while(|byte| **byte == 0).count().min(7);
            let mut choices = Choices::bytes(highest[skipped..].to_vec());
            assert_eq!(choices.choose(bound, String::new), bound - 1, "{bound}");
            assert_eq!(choices.choose(bound, String::new), 0, "{bound}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in ["x", "1", "1=", "=1", "99999999=1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
