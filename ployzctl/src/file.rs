//! Files that the operator names, read as far as they may go: a device or a pipe has no end.

use std::io::Read;
use std::path::Path;

use proto_core::api::ErrorBody;

use crate::failure::{Failure, USAGE};

/// Reads a file, or standard input for `-`; at most a byte more than `limit`, by which the reader sees that it is too long.
/// Its name for problems, and what is in it. `help` is the command that says which files are wanted.
pub(crate) fn read(path: &Path, limit: usize, help: &str) -> Result<(String, Vec<u8>), Failure> {
    if path == Path::new("-") {
        let bytes = bounded(std::io::stdin(), limit);
        let bytes = bytes.map_err(|error| {
            let message = format!("cannot read standard input: {error}");
            Failure::new(USAGE, ErrorBody::new("FILE_UNREADABLE", message).next(help))
        })?;
        return Ok(("<stdin>".to_owned(), bytes));
    }
    let name = path.display().to_string();
    let bytes = std::fs::File::open(path).and_then(|file| bounded(file, limit));
    Ok((name, bytes.map_err(|error| Failure::file("read", path, &error))?))
}

fn bounded(source: impl Read, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Line and column, in characters and from 1, of the first byte that is no UTF-8.
pub(crate) fn place(bytes: &[u8], valid: usize) -> (u32, u32) {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_read_to_the_limit_and_a_byte_more() {
        assert_eq!(read(Path::new("/dev/zero"), 1000, "help").unwrap().1.len(), 1001);
    }
}
