//! All runs that begin with given answers. The odometer of [`Choices`] says which comes next; a run goes on from a copy of the one before, kept
//! just before the place where they part.

use std::cell::RefCell;
use std::ops::ControlFlow;

use super::meetings::Meetings;
use crate::choice::{Choice, Choices};
use crate::fate::Budget;
use crate::run::{Course, Prepared, Report};

/// How a run came out.
pub(super) enum Made {
    /// It was made to its end.
    Ended(Box<Report>),
    /// It came to a state where another run has been.
    Met,
}

/// A run as it was when so many answers had been given.
struct Kept<'a> {
    course: Course<'a>,
    answers: usize,
}

/// Makes every run that begins with these answers, and tells of each; ends early if that says so.
pub(super) fn explore(
    prepared: &Prepared,
    begins: Vec<Choice>,
    budget: &Budget,
    meetings: Option<&Meetings>,
    mut tell: impl FnMut(Made) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let choices = RefCell::new(Choices::exhaustive_from(begins));
    let course = Course::new(prepared, &choices, budget.clone(), false, false);
    assert_eq!(choices.borrow().position(), 0, "nothing is chosen before the first step");
    let mut kept = vec![Kept { course, answers: 0 }];
    loop {
        let from = kept.last().expect("the beginning is never dropped");
        let course = from.course.clone();
        choices.borrow_mut().go_back_to(from.answers);
        tell(go_on(course, &choices, meetings, &mut kept))?;
        let Some(changed) = choices.borrow_mut().advance() else {
            return ControlFlow::Continue(());
        };
        kept.retain(|kept| kept.answers <= changed);
    }
}

fn go_on<'a>(
    mut course: Course<'a>,
    choices: &RefCell<Choices>,
    meetings: Option<&Meetings>,
    kept: &mut Vec<Kept<'a>>,
) -> Made {
    loop {
        let is_new = choices.borrow().is_new();
        if course.may_meet()
            && course.is_sound()
            && let Some(meetings) = meetings
        {
            let (state, from) = (course.state(), course.met);
            // What was walked through before is no meeting: it is how this run comes to where it parts.
            if !is_new {
                course.met = meetings.knows(state).then_some(state).or(from);
            } else if from != Some(state) {
                course.met = Some(state);
                if !meetings.come(from, state) {
                    return Made::Met;
                }
            }
        }
        let answers = choices.borrow().position();
        let before = (is_new && course.may_choose()).then(|| course.clone());
        if !course.advance() {
            break;
        }
        if let Some(course) = before
            && choices.borrow().position() > answers
        {
            kept.push(Kept { course, answers });
        }
    }
    if let Some(meetings) = meetings {
        meetings.end(course.met);
    }
    Made::Ended(Box::new(course.report()))
}
