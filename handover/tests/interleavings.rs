//! Every interleaving of a few threads: `RUSTFLAGS="--cfg loom" cargo test -p handover`. Without loom there is nothing here.
#![cfg(loom)]

use handover::{InForce, UnderWay, enter};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// The backends 1 and 2: state 1 names backend 1, state 2 names backend 2.
type State = usize;

#[test]
fn whoever_hears_of_a_position_is_served_by_its_state() {
    loom::model(|| {
        let in_force = Arc::new(InForce::<State>::default());
        let applied = Arc::new(AtomicUsize::new(0));
        let publisher = {
            let (in_force, applied) = (Arc::clone(&in_force), Arc::clone(&applied));
            thread::spawn(move || {
                for position in 1..=2 {
                    in_force.publish(position, |_| applied.store(position, Ordering::Release));
                }
            })
        };
        let heard = applied.load(Ordering::Acquire);
        let serves = in_force.current().map_or(0, |state| *state);
        assert!(serves >= heard, "applied {heard}, and {serves} is served");
        publisher.join().expect("it does not panic");
    });
}

#[test]
fn nobody_goes_back_to_an_earlier_state() {
    loom::model(|| {
        let in_force = Arc::new(InForce::<State>::default());
        let publisher = {
            let in_force = Arc::clone(&in_force);
            thread::spawn(move || (1..=2).for_each(|n| in_force.publish(n, |_| ())))
        };
        let see = || in_force.current().map_or(0, |state| *state);
        let (first, second) = (see(), see());
        assert!(first <= second);
        publisher.join().expect("it does not panic");
        assert_eq!(see(), 2);
    });
}

#[test]
fn a_backend_that_has_drained_gets_no_request() {
    loom::model(|| {
        let in_force = Arc::new(InForce::<State>::default());
        in_force.publish(1, |_| ());
        let under_way = UnderWay::<usize>::new(|| ());
        // 1 once nothing is under way to the backend 1 and nothing can be any more: it may be removed.
        let drained = Arc::new(AtomicUsize::new(0));
        let request = {
            let (in_force, under_way) = (Arc::clone(&in_force), Arc::clone(&under_way));
            let drained = Arc::clone(&drained);
            thread::spawn(move || {
                let state = in_force.current().expect("published above");
                let mut to = 0;
                let guard = enter(&in_force, &under_way, state, |state| {
                    to = **state;
                    Some(to)
                });
                if to == 1 {
                    assert_eq!(drained.load(Ordering::Acquire), 0, "it was removed already");
                }
                drop(guard);
            })
        };
        in_force.publish(2, |_| ());
        if under_way.count(&[1]) == 0 {
            drained.store(1, Ordering::Release);
        }
        request.join().expect("it does not panic");
        assert_eq!(under_way.count(&[1, 2]), 0);
    });
}

#[test]
fn the_end_of_the_last_request_is_told() {
    loom::model(|| {
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        let under_way = UnderWay::<usize>::new(move || {
            counter.fetch_add(1, Ordering::Release);
        });
        let guards = [UnderWay::begin(&under_way, 1), UnderWay::begin(&under_way, 1)];
        let threads = guards.map(|guard| thread::spawn(move || drop(guard)));
        // Whoever was told of an end before they looked finds none under way.
        if told.load(Ordering::Acquire) > 0 {
            assert_eq!(under_way.count(&[1]), 0);
        }
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        assert_eq!((told.load(Ordering::Acquire), under_way.count(&[1])), (1, 0));
    });
}
