//! Amounts as a manifest writes them: `500m` of CPU, `256MiB` of memory.

const KIB: u64 = 1 << 10;

/// Units of memory, largest first; binary ones before decimal ones of the same letter.
const MEMORY: [(&str, u64); 9] = [
    ("TiB", KIB * KIB * KIB * KIB),
    ("TB", 1_000_000_000_000),
    ("GiB", KIB * KIB * KIB),
    ("GB", 1_000_000_000),
    ("MiB", KIB * KIB),
    ("MB", 1_000_000),
    ("KiB", KIB),
    ("KB", 1_000),
    ("B", 1),
];

/// Bytes in the largest binary unit that divides them, for example `256MiB`.
pub(super) fn memory(bytes: u64) -> String {
    let (unit, size) = MEMORY
        .iter()
        .find(|(unit, size)| (unit.ends_with("iB") || *unit == "B") && bytes.is_multiple_of(*size))
        .unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

/// Reads `256MiB`; `None` if it is no amount of memory.
pub(super) fn parse_memory(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, size) = MEMORY.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*size)
}

/// Reads `500m`; `None` if it is no amount of CPU.
pub(super) fn parse_cpu(text: &str) -> Option<u32> {
    let number = text.strip_suffix('m')?;
    number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_back_what_was_written() {
        for (text, bytes) in [("256MiB", 268_435_456), ("1GiB", 1 << 30), ("1001B", 1001)] {
            assert_eq!(parse_memory(text), Some(bytes));
            assert_eq!(memory(bytes), text);
        }
        assert_eq!(parse_memory("5MB"), Some(5_000_000));
        for bad in ["", "5", "MiB", "256m", "1.5GiB", "-1B", "99999999999TiB", "5 MiB"] {
            assert_eq!(parse_memory(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cpu_is_whole_thousandths() {
        assert_eq!(parse_cpu("500m"), Some(500));
        for bad in ["", "m", "500", "+5m", "0.5m", "99999999999m"] {
            assert_eq!(parse_cpu(bad), None, "{bad:?}");
        }
    }
}
