use super::*;

fn identity() -> Identity {
    Identity {
        binary: Digest::of_bytes(b"program"),
        arguments: vec!["gateway".into(), "--listen".into(), "127.0.0.1:80".into()],
        config: Digest::of_bytes(b"configuration"),
        network_namespace: 4_026_531_840,
        parent_namespace: Some(4_026_531_841),
    }
}

fn wanted() -> BTreeMap<Component, Identity> {
    Component::ALL.map(|component| (component, identity())).into()
}

fn recorded() -> BTreeMap<Component, (Record, Observed)> {
    Component::ALL.map(|component| (component, entry(component, ProcessState::Alive))).into()
}

fn entry(component: Component, process: ProcessState) -> (Record, Observed) {
    let record =
        Record { component, pid: 100, start_time: 7, boot_id: "b1".into(), identity: identity() };
    (record, Observed { process })
}

/// Whatever `change` does to the recorded identity, only that component is recreated, for that part alone.
#[track_caller]
fn recreates_only_that_component_for(part: Part, change: fn(&mut Identity)) {
    for component in Component::ALL {
        let mut recorded = recorded();
        change(&mut recorded.get_mut(&component).unwrap().0.identity);
        for (other, decision) in adopt(&wanted(), &recorded) {
            let expected = if other == component {
                Decision::Recreate { changed: vec![part] }
            } else {
                Decision::Adopt
            };
            assert_eq!(decision, expected, "{other}, when {component} changed");
        }
    }
}

#[test]
fn what_is_exactly_what_is_wanted_is_adopted() {
    let decisions = adopt(&wanted(), &recorded());
    assert_eq!(decisions, Component::ALL.map(|component| (component, Decision::Adopt)).into());
}

#[test]
fn another_binary_recreates_that_component_and_names_the_binary() {
    recreates_only_that_component_for(Part::Binary, |identity| {
        identity.binary = Digest::of_bytes(b"older program");
    });
}

#[test]
fn other_arguments_recreate_that_component_and_name_the_arguments() {
    recreates_only_that_component_for(Part::Arguments, |identity| {
        identity.arguments[2] = "127.0.0.1:81".into();
    });
}

#[test]
fn arguments_in_another_order_are_other_arguments() {
    recreates_only_that_component_for(Part::Arguments, |identity| identity.arguments.swap(0, 1));
}

#[test]
fn another_configuration_recreates_that_component_and_names_the_configuration() {
    recreates_only_that_component_for(Part::Config, |identity| {
        identity.config = Digest::of_bytes(b"older configuration");
    });
}

#[test]
fn another_network_namespace_recreates_that_component_and_names_it() {
    recreates_only_that_component_for(Part::NetworkNamespace, |identity| {
        identity.network_namespace = 4_026_532_000;
    });
}

#[test]
fn another_parent_namespace_recreates_that_component_and_names_it() {
    recreates_only_that_component_for(Part::ParentNamespace, |identity| {
        identity.parent_namespace = Some(4_026_532_000);
    });
    recreates_only_that_component_for(Part::ParentNamespace, |identity| {
        identity.parent_namespace = None;
    });
}

#[test]
fn several_changed_parts_are_all_named() {
    let mut recorded = recorded();
    let drifted = &mut recorded.get_mut(&Component::Nats).unwrap().0.identity;
    drifted.binary = Digest::of_bytes(b"older program");
    drifted.config = Digest::of_bytes(b"older configuration");
    drifted.network_namespace = 1;
    let decision = &adopt(&wanted(), &recorded)[&Component::Nats];
    let changed = vec![Part::Binary, Part::Config, Part::NetworkNamespace];
    assert_eq!(*decision, Decision::Recreate { changed });
    assert_eq!(
        decision.to_string(),
        "recreated: binary, configuration and network namespace changed"
    );
}

#[test]
fn without_a_record_it_is_started() {
    let decisions = adopt(&wanted(), &BTreeMap::new());
    let start = Decision::Start { reason: StartReason::NoRecord };
    assert_eq!(decisions, Component::ALL.map(|component| (component, start.clone())).into());
}

#[test]
fn a_dead_one_is_started_even_if_it_had_drifted() {
    let mut recorded = recorded();
    recorded.insert(Component::Dns, entry(Component::Dns, ProcessState::Dead));
    recorded.get_mut(&Component::Dns).unwrap().0.identity.network_namespace = 1;
    let decisions = adopt(&wanted(), &recorded);
    assert_eq!(decisions[&Component::Dns], Decision::Start { reason: StartReason::Died });
    assert_eq!(decisions[&Component::Gateway], Decision::Adopt);
}

#[test]
fn a_reused_pid_is_nobodys_and_is_never_stopped() {
    let recorded = Component::ALL.map(|c| (c, entry(c, ProcessState::Reused))).into();
    // Neither where the component is wanted: `Recreate` would stop the stranger first.
    for (component, decision) in adopt(&wanted(), &recorded) {
        let start = Decision::Start { reason: StartReason::PidReused };
        assert_eq!(decision, start, "{component}");
    }
    // Nor where it is not wanted any more.
    assert_eq!(adopt(&BTreeMap::new(), &recorded), BTreeMap::new());
}

#[test]
fn a_running_one_that_is_no_longer_wanted_is_stopped_and_a_dead_one_needs_nothing() {
    let mut wanted = wanted();
    wanted.remove(&Component::Gateway);
    wanted.remove(&Component::Dns);
    let mut recorded = recorded();
    recorded.insert(Component::Dns, entry(Component::Dns, ProcessState::Dead));
    let decisions = adopt(&wanted, &recorded);
    let expected =
        [(Component::Nats, Decision::Adopt), (Component::Gateway, Decision::Stop)].into();
    assert_eq!(decisions, expected);
}

#[test]
fn a_record_reads_back_as_it_was_written_and_refuses_keys_it_does_not_know() {
    let (record, _) = entry(Component::Nats, ProcessState::Alive);
    let mut json = serde_json::to_value(&record).unwrap();
    assert_eq!(json["component"], "nats");
    assert_eq!(serde_json::from_value::<Record>(json.clone()).unwrap(), record);
    json["identity"]["colour"] = "blue".into();
    assert!(serde_json::from_value::<Record>(json).is_err());
}
