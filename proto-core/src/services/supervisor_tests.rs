use super::*;

const fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

/// Starts the sidecar when it is due and has it die after `uptime`; returns how long it waited before.
fn run_for(supervisor: &mut Supervisor, now: &mut Time, uptime: Duration) -> Duration {
    let (due, TimerKind::Restart) =
        supervisor.poll_timeout().expect("a death is followed by a wait");
    let waited = due.since(*now);
    supervisor.handle_input(due, Input::Tick);
    let Some(Effect::Start(attempt)) = supervisor.poll_effect() else {
        panic!("no start when it was due")
    };
    supervisor.handle_input(due, Input::Started(attempt));
    *now = due + uptime;
    supervisor.handle_input(*now, Input::Died(attempt));
    waited
}

#[test]
fn an_adopted_one_is_left_alone() {
    let mut supervisor = Supervisor::adopted(at(0));
    supervisor.handle_input(at(1), Input::Tick);
    assert_eq!(supervisor.poll_effect(), None);
    assert_eq!(supervisor.poll_timeout(), None);
}

#[test]
fn one_that_is_to_be_started_is_started_at_once_and_only_once() {
    let mut supervisor = Supervisor::to_start();
    assert_eq!(supervisor.poll_effect(), Some(Effect::Start(1)));
    supervisor.handle_input(at(1), Input::Tick);
    assert_eq!(supervisor.poll_effect(), None);
    supervisor.handle_input(at(2), Input::Started(1));
    assert_eq!(supervisor.poll_effect(), None);
    assert_eq!(supervisor.poll_timeout(), None);
}

#[test]
fn the_first_restart_comes_100_ms_after_the_death_and_not_before() {
    let mut supervisor = Supervisor::adopted(at(0));
    supervisor.handle_input(at(5), Input::Died(0));
    assert_eq!(supervisor.poll_timeout(), Some((at(105), TimerKind::Restart)));
    supervisor.handle_input(at(104), Input::Tick);
    assert_eq!(supervisor.poll_effect(), None);
    supervisor.handle_input(at(105), Input::Tick);
    assert_eq!(supervisor.poll_effect(), Some(Effect::Start(1)));
    assert_eq!(supervisor.poll_timeout(), None);
}

#[test]
fn the_wait_doubles_with_every_soon_death_up_to_two_seconds() {
    let mut supervisor = Supervisor::adopted(at(0));
    let mut now = at(0);
    supervisor.handle_input(now, Input::Died(0));
    let waits: Vec<_> = (0..7)
        .map(|_| run_for(&mut supervisor, &mut now, Duration::from_millis(9_999)).as_millis())
        .collect();
    assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
}

#[test]
fn ten_seconds_of_uptime_make_the_next_wait_the_first_one_again() {
    let mut supervisor = Supervisor::adopted(at(0));
    let mut now = at(0);
    supervisor.handle_input(now, Input::Died(0));
    run_for(&mut supervisor, &mut now, Duration::ZERO);
    run_for(&mut supervisor, &mut now, STABLE_UPTIME);
    let waits = [(); 2].map(|()| run_for(&mut supervisor, &mut now, Duration::ZERO).as_millis());
    assert_eq!(waits, [100, 200]);
}

#[test]
fn a_start_that_fails_is_tried_again_with_the_same_patience() {
    let mut supervisor = Supervisor::to_start();
    assert_eq!(supervisor.poll_effect(), Some(Effect::Start(1)));
    supervisor.handle_input(at(0), Input::Died(1));
    supervisor.handle_input(at(100), Input::Tick);
    assert_eq!(supervisor.poll_effect(), Some(Effect::Start(2)));
    supervisor.handle_input(at(100), Input::Died(2));
    assert_eq!(supervisor.poll_timeout(), Some((at(300), TimerKind::Restart)));
}

#[test]
fn news_of_an_earlier_run_changes_nothing() {
    let mut supervisor = Supervisor::adopted(at(0));
    supervisor.handle_input(at(0), Input::Died(0));
    supervisor.handle_input(at(100), Input::Tick);
    assert_eq!(supervisor.poll_effect(), Some(Effect::Start(1)));
    supervisor.handle_input(at(101), Input::Started(1));
    supervisor.handle_input(at(102), Input::Died(0));
    supervisor.handle_input(at(103), Input::Started(0));
    assert_eq!(supervisor.poll_timeout(), None, "run 1 still runs");
    supervisor.handle_input(at(104), Input::Died(1));
    supervisor.handle_input(at(150), Input::Died(1));
    assert_eq!(supervisor.poll_timeout(), Some((at(304), TimerKind::Restart)), "one death, once");
}

#[test]
fn a_withdrawn_one_stays_down() {
    let mut supervisor = Supervisor::adopted(at(0));
    supervisor.handle_input(at(0), Input::Died(0));
    supervisor.handle_input(at(1), Input::Withdraw);
    assert_eq!(supervisor.poll_timeout(), None);
    supervisor.handle_input(at(100), Input::Tick);
    assert_eq!(supervisor.poll_effect(), None);

    let mut supervisor = Supervisor::to_start();
    supervisor.handle_input(at(0), Input::Withdraw);
    supervisor.handle_input(at(0), Input::Died(1));
    assert_eq!(supervisor.poll_effect(), None);
    assert_eq!(supervisor.poll_timeout(), None);
}
