//! Values with a form of their own.

use std::collections::BTreeMap;

use super::problem::Code;
use super::read::{Reader, Table, View, shorten};
use super::tree::Kind;
use crate::deploy::spec::{Constraint, Topology};
use crate::deploy::{HostName, units};

/// 10 thousandths of a core to 1024 cores.
const CPU: std::ops::RangeInclusive<u32> = 10..=1_024_000;
/// 6 MiB, Docker's own minimum, to 64 TiB.
const MEMORY: std::ops::RangeInclusive<u64> = (6 << 20)..=(64 << 40);

/// Those of capabilities(7) up to Linux 5.9, the newest that there are, and `ALL`, as Docker takes them.
pub(super) const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

pub(super) fn cpu(reader: &mut Reader, view: &View<'_>) -> Option<u32> {
    const HINT: &str =
        "write a number of cores, for example 1.5, or thousandths of one, for example \"500m\"";
    let millis = match &view.node.kind {
        Kind::String(text) => units::parse_cpu(text),
        Kind::Integer(n) => u32::try_from(n.saturating_mul(1000)).ok(),
        // Casts saturate; a fraction of a thousandth is refused.
        Kind::Float(n) if (n * 1000.0 - (n * 1000.0).round()).abs() < 1e-6 => {
            Some((n * 1000.0).round() as u32)
        }
        _ => None,
    };
    match millis {
        None => reader.wrong(view, Code::InvalidValue, "this is no amount of CPU".to_owned(), HINT),
        Some(millis) if !CPU.contains(&millis) => {
            reader.wrong(view, Code::OutOfRange, "10m to 1024 cores are allowed".to_owned(), HINT);
        }
        Some(millis) => return Some(millis),
    }
    None
}

pub(super) fn memory(reader: &mut Reader, view: &View<'_>) -> Option<u64> {
    const HINT: &str = "write a whole number with KiB, MiB, GiB or TiB (or KB, MB, GB, TB for powers of ten), for \
                        example \"256MiB\"";
    let bytes = match &view.node.kind {
        Kind::String(text) => units::parse_memory(text),
        _ => None,
    };
    match bytes {
        None => {
            reader.wrong(view, Code::InvalidValue, "this is no amount of memory".to_owned(), HINT)
        }
        Some(bytes) if !MEMORY.contains(&bytes) => {
            reader.wrong(view, Code::OutOfRange, "6MiB to 64TiB are allowed".to_owned(), HINT);
        }
        Some(bytes) => return Some(bytes),
    }
    None
}

impl std::str::FromStr for Topology {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("label.")) {
            ("machine", _) => Ok(Self::Machine),
            ("region", _) => Ok(Self::Region),
            ("az", _) => Ok(Self::Az),
            (_, Some(name)) if is_word(name, 63) => Ok(Self::Label(name.to_owned())),
            _ => Err(format!(
                "{text:?} is nothing that a machine has: `machine`, `region`, `az` or `label.NAME` is wanted"
            )),
        }
    }
}

impl std::str::FromStr for Constraint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once("==").map(|parts| (parts, true));
        let parts = parts.or_else(|| text.split_once("!=").map(|parts| (parts, false)));
        let ((attribute, value), equal) = parts.ok_or_else(|| {
            format!("{text:?} is no constraint: write \"region == eu\" or \"label.disk != ssd\"")
        })?;
        let value = value.trim();
        if !is_word(value, 128) {
            return Err(format!(
                "{value:?} is no value to compare with: 1 to 128 characters without spaces or `=`"
            ));
        }
        Ok(Self { attribute: attribute.trim().parse()?, equal, value: value.to_owned() })
    }
}

/// Printable ASCII without spaces, quotes and the signs that constraints are made of.
fn is_word(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'=' | b'!' | b'"' | b'\''))
}

/// An image reference as Docker reads it, or the directory of a root of files.
pub(super) fn image(reader: &mut Reader, view: &View<'_>) -> Option<String> {
    let text = reader.string(view, "")?;
    let directory =
        text.starts_with('/') && text.len() <= 4096 && !text.split('/').any(|part| part == "..");
    if directory || is_reference(&text) {
        return Some(text);
    }
    let message = format!("{:?} is no image", shorten(&text));
    let hint = if is_reference(&text.to_lowercase()) && !text.contains('@') {
        "an image's name is in lower case"
    } else {
        "write it as `docker pull` takes it, for example \"nginx:1.29\" or \"ghcr.io/example/blog@sha256:…\""
    };
    reader.wrong(view, Code::InvalidValue, message, hint);
    None
}

/// The grammar of the distribution project: `[host[:port]/]path[:tag][@algorithm:hex]`.
fn is_reference(text: &str) -> bool {
    let (rest, digest) =
        text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let digest_ok = digest.is_none_or(|digest| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    });
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let tag_ok = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && !tag.starts_with(['.', '-'])
    });
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host == "localhost" || host.contains(['.', ':']) => {
            (Some(host), path)
        }
        _ => (None, name),
    };
    let host_ok = host.is_none_or(|host| {
        let (host, port) =
            host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
        HostName::new(host.to_ascii_lowercase()).is_ok()
            && port.is_none_or(|port| port.parse::<u16>().is_ok())
    });
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let component = |part: &str| {
        part.bytes().next().is_some_and(edge)
            && part.bytes().last().is_some_and(edge)
            && part.bytes().all(|b| edge(b) || matches!(b, b'.' | b'_' | b'-'))
    };
    name.len() <= 255 && digest_ok && tag_ok && host_ok && path.split('/').all(component)
}

pub(super) fn host_name(reader: &mut Reader, view: &View<'_>) -> Option<HostName> {
    let text = reader.string(view, "")?;
    match HostName::new(text.as_str()) {
        Ok(name) => Some(name),
        Err(error) => {
            let better = text.trim_end_matches('.').to_lowercase();
            let hint = if text.starts_with("*.") {
                "there are no wildcards: write every host name".to_owned()
            } else if HostName::new(better.as_str()).is_ok() {
                format!("write {better:?}")
            } else {
                String::new()
            };
            reader.wrong(view, Code::InvalidName, shorten(&error.to_string()), &hint);
            None
        }
    }
}

/// Without the slash at its end, which changes nothing.
pub(super) fn path_prefix(reader: &mut Reader, view: &View<'_>) -> Option<String> {
    let text = reader.string(view, "")?;
    let path = text.trim_end_matches('/');
    let segments = || path.split('/').skip(1);
    let ok = text.starts_with('/')
        && text.len() <= 255
        && text.bytes().all(|b| {
            b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\' | b'"' | b'<' | b'>')
        })
        && segments().all(|s| !matches!(s, "" | "." | ".."));
    if !ok {
        let message = format!("{:?} is no path prefix", shorten(&text));
        reader.wrong(
            view,
            Code::InvalidValue,
            message,
            "write whole segments, starting with `/`, for example \"/api/v1\"",
        );
        return None;
    }
    Some(if path.is_empty() { "/".to_owned() } else { path.to_owned() })
}

/// What a probe asks for: an absolute path, with a query if wanted.
pub(super) fn request_path(reader: &mut Reader, view: &View<'_>) -> Option<String> {
    let text = reader.string(view, "")?;
    let ok = text.starts_with('/')
        && text.len() <= 1024
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !ok {
        let message = format!("{:?} is no path", shorten(&text));
        reader.wrong(
            view,
            Code::InvalidValue,
            message,
            "write an absolute path, for example \"/healthz\"",
        );
    }
    ok.then_some(text)
}

pub(super) fn user(reader: &mut Reader, view: &View<'_>) -> Option<String> {
    const HINT: &str = "write \"user\", \"uid\", \"user:group\" or \"uid:gid\", of the image, or of the machine in the process runtime";
    let text = reader.string(view, "")?;
    let part = |p: &str| {
        (1..=32).contains(&p.len())
            && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let (user, group) =
        text.split_once(':').map_or((text.as_str(), None), |(user, group)| (user, Some(group)));
    let ok = part(user) && group.is_none_or(part);
    if !ok {
        let message = format!("{:?} is no user", shorten(&text));
        reader.wrong(view, Code::InvalidValue, message, HINT);
    }
    ok.then_some(text)
}

/// In upper case, without `CAP_`, sorted, each once.
pub(super) fn capabilities(reader: &mut Reader, table: &Table<'_>, key: &str) -> Vec<String> {
    let Some(view) = table.get(key) else { return Vec::new() };
    let mut all = Vec::new();
    for item in reader.array(&view, 64, "write [\"NET_ADMIN\"]") {
        let Some(text) = reader.string(&item, "") else { continue };
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if CAPABILITIES.contains(&name) {
            all.push(name.to_owned());
        } else {
            let message = format!("{:?} is no capability", shorten(&text));
            let hint = "write a name of capabilities(7), for example \"NET_ADMIN\"";
            reader.wrong(&item, Code::InvalidValue, message, hint);
        }
    }
    all.sort();
    all.dedup();
    all
}

pub(super) fn env(reader: &mut Reader, table: &Table<'_>) -> BTreeMap<String, String> {
    let Some(view) = table.get("env") else { return BTreeMap::new() };
    let mut env = BTreeMap::new();
    for (field, view) in reader.map(&view, 256, "write { NAME = \"value\" }") {
        let key = field.key.as_str();
        let ok = (1..=255).contains(&key.len())
            && !key.starts_with(|c: char| c.is_ascii_digit())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !ok {
            let message = "a variable's name is 1 to 255 of letters, digits and '_', not starting with a digit".to_owned();
            reader.report(field.at, Code::InvalidName, &view.path, message, None);
        }
        if let Some(value) = reader.string(&view, "") {
            env.insert(key.to_owned(), value);
        }
    }
    env
}

pub(super) fn labels(reader: &mut Reader, table: &Table<'_>) -> BTreeMap<String, String> {
    let Some(view) = table.get("labels") else { return BTreeMap::new() };
    let mut labels = BTreeMap::new();
    for (field, view) in reader.map(&view, 64, "write { \"com.example.team\" = \"blue\" }") {
        let key = field.key.as_str();
        if !(1..=128).contains(&key.len())
            || !key.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
        {
            let message =
                "a label's name is 1 to 128 printable ASCII characters without spaces and `=`"
                    .to_owned();
            reader.report(field.at, Code::InvalidName, &view.path, message, None);
        }
        let Some(value) = reader.string(&view, "") else { continue };
        if value.len() > 4096 {
            reader.wrong(
                &view,
                Code::TooLarge,
                format!("{} bytes, at most 4096 are allowed", value.len()),
                "",
            );
        }
        labels.insert(key.to_owned(), value);
    }
    labels
}
