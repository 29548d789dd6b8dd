//! What a process sees of the world: its command, its variables, its user.

use std::collections::BTreeMap;

use proto_core::runtime::InstanceSpec;

/// Where commands are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The command.
pub(super) fn argv(spec: &InstanceSpec) -> impl Iterator<Item = &String> {
    spec.workload.entrypoint.iter().chain(&spec.workload.command)
}

/// The whole environment. What the operator sets wins over what is set by itself.
pub(super) fn variables(spec: &InstanceSpec) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("PLOYZ_ADDRESS".to_owned(), spec.address.to_string()),
        ("PLOYZ_INSTANCE".to_owned(), spec.name.to_string()),
        ("PLOYZ_NAMESPACE".to_owned(), spec.namespace.to_string()),
        ("PLOYZ_SERVICE".to_owned(), spec.service.to_string()),
    ]);
    if let Some(first) = spec.ports.values().next() {
        variables.insert("PORT".to_owned(), first.to_string());
    }
    for (name, port) in &spec.ports {
        let name = name.to_uppercase().replace('-', "_");
        variables.insert(format!("PORT_{name}"), port.to_string());
    }
    variables.extend(spec.workload.env.clone());
    variables
}

/// The user that is meant by Docker's notation: name or number, optionally `:` and a group's name or number. `None` for an empty text,
/// or if this process is that user already.
///
/// # Errors
///
/// If there is no such user or group, or this process may not become it.
pub(super) fn user(text: &str) -> Result<Option<User>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (name, group) =
        text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    let (uid, own_group) = match (name.parse(), entry("/etc/passwd", name)?) {
        (_, Some(fields)) => (number(&fields, 2)?, number(&fields, 3)?),
        (Ok(uid), None) => (uid, 0),
        (Err(_), None) => return Err(format!("there is no user {name:?}")),
    };
    let gid = match group {
        None => own_group,
        Some(group) => match (group.parse(), entry("/etc/group", group)?) {
            (_, Some(fields)) => number(&fields, 2)?,
            (Ok(gid), None) => gid,
            (Err(_), None) => return Err(format!("there is no group {group:?}")),
        },
    };
    let own = rustix::process::geteuid();
    match (own.is_root(), own.as_raw() == uid) {
        (true, _) => Ok(Some(User { uid, gid })),
        (false, true) if group.is_none() => Ok(None),
        (false, _) => Err(format!("only root can run a process as {text:?}")),
    }
}

/// The line of `file` whose name, or else whose number, is `key`.
fn entry(file: &str, key: &str) -> Result<Option<Vec<String>>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let by = |at: usize| text.lines().map(fields).find(|f| f.get(at).is_some_and(|f| f == key));
    Ok(by(0).or_else(|| by(2)))
}

fn number(fields: &[String], at: usize) -> Result<u32, String> {
    let field = fields.get(at).map_or("", String::as_str);
    field.parse().map_err(|_| format!("{:?} has no number at field {}", fields.join(":"), at + 1))
}
