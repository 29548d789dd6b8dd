use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Status};
use proto_core::runtime::{InstanceSpec, InstanceState, ObservedInstance};
use proto_core::time::UnixTime;

use super::container::SPEC;
use super::error::{Answer, Trouble, other};

/// The engine's id of a container.
pub(super) fn id(container: &ContainerInspectResponse) -> Answer<String> {
    container.id.clone().ok_or_else(|| strange(container, "has no id"))
}

/// A label of a container.
pub(super) fn label<'a>(container: &'a ContainerInspectResponse, key: &str) -> Option<&'a str> {
    container.config.as_ref()?.labels.as_ref()?.get(key).map(String::as_str)
}

/// The instance that a container of ours is.
pub(super) fn instance(container: &ContainerInspectResponse) -> Answer<ObservedInstance> {
    let spec =
        label(container, SPEC).ok_or_else(|| strange(container, "has no label ployz.spec"))?;
    let spec: InstanceSpec = serde_json::from_str(spec).map_err(|error| {
        strange(container, &format!("has a label ployz.spec that cannot be read: {error}"))
    })?;
    let state = container.state.as_ref().ok_or_else(|| strange(container, "has no state"))?;
    let code = i32::try_from(state.exit_code.unwrap_or(0)).unwrap_or(i32::MAX);
    let state_now = match state.status {
        Some(Status::CREATED) => InstanceState::Created,
        Some(Status::RUNNING | Status::PAUSED | Status::STOPPING) => InstanceState::Running,
        Some(Status::RESTARTING) => InstanceState::Restarting,
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => InstanceState::Exited { code },
        Some(Status::EMPTY) | None => return Err(strange(container, "has no status")),
    };
    Ok(ObservedInstance {
        spec,
        state: state_now,
        started_at: state.started_at.as_deref().and_then(time),
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid != 0),
        restarts: u32::try_from(container.restart_count.unwrap_or(0)).unwrap_or(0),
        last_exit: (state_now == InstanceState::Restarting).then_some(code),
    })
}

fn strange(container: &ContainerInspectResponse, what: &str) -> Trouble {
    let name = container.name.as_deref().unwrap_or("?").trim_start_matches('/');
    Trouble::Failed(other(&format!("container {name} {what}")))
}

/// Reads RFC 3339 in UTC as the engine writes it. Its zero, the year 1, is no time.
pub(super) fn time(text: &str) -> Option<UnixTime> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<u64>);
    let mut next = || date.next()?.ok();
    let (year, month, day) = (next()?, next()?, next()?);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.splitn(3, ':').map(str::parse::<u64>);
    let mut next = || clock.next()?.ok();
    let (hour, minute, second) = (next()?, next()?, next()?);
    if year < 1970 || !(1..=12).contains(&month) || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    // Days from civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    Some(UnixTime::from_millis((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_times_are_read_to_the_millisecond() {
        let read = |text| time(text).map(UnixTime::as_millis);
        assert_eq!(read("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(read("2000-02-29T00:00:00.5Z"), Some(951_782_400_500));
        assert_eq!(read("2026-11-20T12:00:01.999123456Z"), Some(1_795_176_001_999));
        assert_eq!(read("0001-01-01T00:00:00Z"), None);
        assert_eq!(read("yesterday"), None);
    }
}
