//! Maps with numbers for keys, read from JSON.
//!
//! JSON has strings for keys. `serde_json` turns them into numbers by itself, but inside of tagged enums and flattened
//! fields serde keeps what it has read in a buffer first, which does not. So these maps are read by hand everywhere.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// For `#[serde(deserialize_with = …)]`.
pub(crate) fn deserialize<'de, D, N, V>(deserializer: D) -> Result<BTreeMap<N, V>, D::Error>
where
    D: Deserializer<'de>,
    N: FromStr<Err: Display> + Ord + Display,
    V: Deserialize<'de>,
{
    let texts: BTreeMap<String, V> = BTreeMap::deserialize(deserializer)?;
    let numbers = texts.into_iter().map(|(text, value)| {
        let number: N = text.parse().map_err(|error| {
            de::Error::custom(format_args!("{text:?} is no number for a key: {error}"))
        })?;
        // Otherwise `1` and `01` would be one key.
        if number.to_string() == text {
            Ok((number, value))
        } else {
            Err(de::Error::custom(format_args!("{text:?} is not how {number} is written")))
        }
    });
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Tagged {
        Ports {
            #[serde(deserialize_with = "deserialize")]
            ports: BTreeMap<u16, bool>,
        },
    }

    fn read(key: &str) -> Result<Tagged, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"kind":"ports","ports":{{"{key}":true}}}}"#))
    }

    #[test]
    fn numbers_are_keys_inside_of_tagged_enums_too() {
        let ports = BTreeMap::from([(80, true)]);
        assert_eq!(read("80").expect("a number"), Tagged::Ports { ports });
        for bad in ["080", "+80", "-1", "65536", "http", ""] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
