use serde::{Deserialize, Serialize};

/// What is wrong with a manifest, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestProblem {
    /// The kind of problem.
    pub code: Code,
    /// What is wrong, a sentence without a full stop.
    pub message: String,
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The key, for example `services[1].routes[0].hostnames`; empty for the whole text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl std::fmt::Display for ManifestProblem {
    /// One line: `ployz.toml:3:1: UNKNOWN_KEY services[0].imgae: … (did you mean `image`?)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, message, file, line, column, path, hint } = self;
        write!(f, "{file}:{line}:{column}: {code}")?;
        if !path.is_empty() {
            write!(f, " {path}")?;
        }
        write!(f, ": {message}")?;
        hint.iter().try_for_each(|hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for ManifestProblem {}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The kinds of problems, stable names for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as text, for example `UNKNOWN_KEY`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The text is no TOML or no JSON.
    ManifestSyntax = "MANIFEST_SYNTAX",
    /// A key is there twice.
    DuplicateKey = "DUPLICATE_KEY",
    /// There is no such key.
    UnknownKey = "UNKNOWN_KEY",
    /// A string where a number is wanted, and the like.
    WrongType = "WRONG_TYPE",
    /// A key that must be there is not.
    MissingKey = "MISSING_KEY",
    /// A name is not made as names are.
    InvalidName = "INVALID_NAME",
    /// Two services have the same name.
    DuplicateName = "DUPLICATE_NAME",
    /// The value has the right type and says nothing that is known.
    InvalidValue = "INVALID_VALUE",
    /// A number or a length of time is too small or too large.
    OutOfRange = "OUT_OF_RANGE",
    /// More of something than is allowed.
    TooMany = "TOO_MANY",
    /// The text, or what would be stored of it, is too large.
    TooLarge = "TOO_LARGE",
    /// The name belongs to Ployz.
    ReservedName = "RESERVED_NAME",
    /// Two routes take the same requests.
    RouteConflict = "ROUTE_CONFLICT",
    /// Two want the same port.
    PortConflict = "PORT_CONFLICT",
    /// A port name that is used and not declared in `ports`.
    UndeclaredPort = "UNDECLARED_PORT",
    /// `blue_green` without a readiness check.
    ReadinessRequired = "READINESS_REQUIRED",
    /// Two keys that contradict each other.
    Contradiction = "CONTRADICTION",
    /// Known, and not in this version.
    Unsupported = "UNSUPPORTED",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
