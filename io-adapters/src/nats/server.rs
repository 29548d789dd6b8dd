//! The configuration of a nats-server: a pure function of what the machine is, so that equal machines have equal
//! texts and a digest of the text tells whether a running server drifted.
//!
//! A founder is one standalone server without a `cluster` block: a single server *with* one never elects. A standalone
//! server's streams can't be taken over by a cluster, so a cluster that is to grow is founded as a store and a small
//! witness; that belongs to the issue about several machines, and until then a founder stays alone.

use std::fmt::Write as _;
use std::path::PathBuf;

use proto_core::id::MachineId;

use super::credentials::inbox_prefix;
use super::{DOMAIN, KEYS, STREAM, api, command_subject, mapped};

/// Where a server listens for clients unless told otherwise.
pub const DEFAULT_PORT: u16 = 4222;

/// Where a server answers questions about itself unless told otherwise.
pub const DEFAULT_MONITOR_PORT: u16 = 8222;

/// What a server takes in one message: twice what a command may hold ([`super::MAX_PAYLOAD`]).
const MAX_PAYLOAD: usize = 2 * 1024 * 1024;

/// What makes a server's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// The server's name: unique in the cluster, a new one after a loss of the disk.
    pub name: String,
    /// The machine it runs on.
    pub machine: MachineId,
    /// Where it listens for clients, on 127.0.0.1.
    pub port: u16,
    /// Where it answers questions about itself over HTTP, on 127.0.0.1; `None` for nowhere.
    pub monitor_port: Option<u16>,
    /// Where its streams are kept.
    pub store_dir: PathBuf,
    /// Where it writes its process id; `None` for nowhere.
    pub pid_file: Option<PathBuf>,
    /// Where it logs; `None` for its standard error.
    pub log_file: Option<PathBuf>,
    /// How much of the disk its streams may take, in bytes.
    pub max_file_store: u64,
    /// The public keys of its users.
    pub users: Users,
}

/// The public keys of a server's users, by role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    /// Takes the commands of its own machine and answers them, and says that it is there.
    pub participant: String,
    /// Reads and writes facts and commands machines.
    pub coordinator: String,
    /// Reads the facts of namespaces: gateway and DNS.
    pub follower: String,
    /// Administers the servers themselves (the system account); `None` if nobody does.
    pub system: Option<String>,
}

/// The configuration file of a founder.
#[must_use]
pub fn render(config: &ServerConfig) -> String {
    let mut text = String::from("# Written by ployzd; changes are overwritten.\n");
    let mut line = |entry: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{entry}");
    };
    line(format_args!("server_name: {}", quoted(&config.name)));
    line(format_args!("listen: \"127.0.0.1:{}\"", config.port));
    if let Some(port) = config.monitor_port {
        line(format_args!("http: \"127.0.0.1:{port}\""));
    }
    for (key, path) in [("pid_file", &config.pid_file), ("log_file", &config.log_file)] {
        if let Some(path) = path {
            line(format_args!("{key}: {}", quoted(&path.to_string_lossy())));
        }
    }
    if config.log_file.is_some() {
        // Two files at most: the current one and the one before.
        line(format_args!("logfile_size_limit: 8MB\nlogfile_max_num: 2"));
    }
    line(format_args!("max_payload: {MAX_PAYLOAD}"));
    line(format_args!("max_connections: 4096"));
    // An acknowledged write must survive a loss of power: the default syncs every two minutes.
    line(format_args!(
        "jetstream {{\n  domain: {DOMAIN}\n  store_dir: {}\n  max_memory_store: 64MB\n  max_file_store: {}\n  sync_interval: always\n}}",
        quoted(&config.store_dir.to_string_lossy()),
        config.max_file_store,
    ));
    line(format_args!("accounts {{\n  PLOYZ {{\n    jetstream: enabled\n    users: ["));
    let machine = config.machine.as_str();
    let users = &config.users;
    for user in [
        participant(&users.participant, machine),
        coordinator(&users.coordinator),
        follower(&users.follower),
    ] {
        line(format_args!("{}", user.render()));
    }
    line(format_args!("    ]\n  }}"));
    if let Some(system) = &users.system {
        line(format_args!("  SYS {{ users: [ {{ nkey: {system} }} ] }}"));
    }
    line(format_args!("}}"));
    if users.system.is_some() {
        line(format_args!("system_account: SYS"));
    }
    text
}

/// A user and the subjects that it may use; everything else is refused.
///
/// A server that holds the streams itself strips the domain's prefix before it looks at permissions, a leaf does not: both
/// forms are rendered.
struct User<'a> {
    role: &'static str,
    key: &'a str,
    publish: Vec<String>,
    subscribe: Vec<String>,
    responds: bool,
}

impl User<'_> {
    fn render(&self) -> String {
        let list = |subjects: &[String]| {
            subjects.iter().map(|subject| quoted(subject)).collect::<Vec<_>>().join(", ")
        };
        let publish: Vec<String> = self
            .publish
            .iter()
            .flat_map(|subject| std::iter::once(subject.clone()).chain(mapped(subject)))
            .collect();
        // An answer may be an hour late: readiness and drains take their time.
        let responses = if self.responds {
            "\n        allow_responses: { max: 1, expires: \"1h\" }"
        } else {
            ""
        };
        format!(
            "      # {}\n      {{ nkey: {}, permissions: {{\n        publish: {{ allow: [{}] }}\n        subscribe: {{ allow: [{}] }}{responses}\n      }} }}",
            self.role,
            self.key,
            list(&publish),
            list(&self.subscribe),
        )
    }
}

fn inbox(key: &str) -> String {
    format!("{}.>", inbox_prefix(key))
}

/// May answer whoever asked it, and nobody else: no machine can answer as another.
fn participant<'a>(key: &'a str, machine: &str) -> User<'a> {
    User {
        role: "participant",
        key,
        // Its own inbox is how it learns that the server has taken its subscription.
        publish: vec![format!("presence.{machine}"), inbox(key)],
        subscribe: vec![inbox(key), command_subject(machine)],
        responds: true,
    }
}

/// May not purge, delete or change the bucket.
fn coordinator(key: &str) -> User<'_> {
    User {
        role: "coordinator",
        key,
        publish: vec![
            api(&format!("{KEYS}>")),
            api(&format!("STREAM.INFO.{STREAM}")),
            api(&format!("STREAM.CREATE.{STREAM}")),
            api(&format!("DIRECT.GET.{STREAM}")),
            api(&format!("DIRECT.GET.{STREAM}.>")),
            api(&format!("CONSUMER.CREATE.{STREAM}.>")),
            format!("$JS.FC.{STREAM}.>"),
            command_subject("*"),
        ],
        subscribe: vec![inbox(key), "presence.*".to_owned()],
        responds: false,
    }
}

/// May read what lies below `ns.`: the key is part of the subject of a direct get, and the filter of that of a new consumer.
///
/// The body of a request can't be restricted, so a follower can make a consumer that delivers facts of namespaces to any
/// subject: it is trusted not to.
fn follower(key: &str) -> User<'_> {
    User {
        role: "follower",
        key,
        publish: vec![
            api(&format!("DIRECT.GET.{STREAM}.{KEYS}ns.>")),
            api(&format!("CONSUMER.CREATE.{STREAM}.*.{KEYS}ns.>")),
            format!("$JS.FC.{STREAM}.>"),
        ],
        subscribe: vec![inbox(key)],
        responds: false,
    }
}

/// A string of the server's configuration language, which knows the escapes of C.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServerConfig {
        ServerConfig {
            name: "m1".to_owned(),
            machine: MachineId::new("m1").unwrap(),
            port: DEFAULT_PORT,
            monitor_port: Some(DEFAULT_MONITOR_PORT),
            store_dir: PathBuf::from("/var/lib/ployz/nats"),
            pid_file: None,
            log_file: None,
            max_file_store: 1 << 30,
            users: Users {
                participant: "UP".to_owned(),
                coordinator: "UC".to_owned(),
                follower: "UF".to_owned(),
                system: Some("US".to_owned()),
            },
        }
    }

    #[test]
    fn a_founder_listens_on_loopback_and_has_the_domain_but_no_cluster() {
        let text = render(&config());
        for part in [
            "listen: \"127.0.0.1:4222\"",
            "http: \"127.0.0.1:8222\"",
            "domain: ployz",
            "store_dir: \"/var/lib/ployz/nats\"",
            "sync_interval: always",
            "system_account: SYS",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("cluster"), "{text}");
        assert_eq!(text, render(&config()));
    }

    #[test]
    fn a_follower_may_publish_nothing_that_writes() {
        let config = config();
        let user = follower(&config.users.follower);
        for subject in &user.publish {
            assert!(
                subject.starts_with("$JS.ployz.API.DIRECT.GET.KV_facts.$KV.facts.ns.")
                    || subject
                        .starts_with("$JS.ployz.API.CONSUMER.CREATE.KV_facts.*.$KV.facts.ns.")
                    || subject.starts_with("$JS.FC."),
                "{subject}"
            );
        }
        assert!(!user.responds);
    }

    #[test]
    fn a_participant_hears_its_own_machine_only() {
        let user = participant("UP", "m1");
        assert_eq!(user.subscribe, ["_INBOX.UP.>", "ployz.cmd.m1"]);
        assert_eq!(user.publish, ["presence.m1", "_INBOX.UP.>"]);
    }

    #[test]
    fn a_path_with_quotes_stays_one_string() {
        let mut config = config();
        config.store_dir = PathBuf::from("/a\"b\\c");
        assert!(render(&config).contains(r#"store_dir: "/a\"b\\c""#));
    }
}
