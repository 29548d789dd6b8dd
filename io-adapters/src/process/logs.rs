//! Log files: whole lines, each with its time and stream in front, in two files of a bounded size.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use proto_core::time::UnixTime;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Sender;

use super::place::Place;
use super::readiness::readable;
use crate::runtime::{LogLine, OutputStream};

/// When the current file is as long as this, it becomes the previous one, and the previous one goes.
const FILE_LIMIT: u64 = 5 << 20;
/// A line longer than this is cut into several.
const LINE_LIMIT: usize = 16 << 10;

/// The writer: the supervisor's side.
pub(super) struct LogWriter {
    path: PathBuf,
    previous: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    partial: [Vec<u8>; 2],
}

impl LogWriter {
    pub(super) fn open(place: &Place) -> io::Result<Self> {
        Self::with_limit(place, FILE_LIMIT)
    }

    fn with_limit(place: &Place, limit: u64) -> io::Result<Self> {
        let (path, previous) = (place.at("log"), place.at("log.1"));
        let file = append(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, previous, file, size, limit, partial: Default::default() })
    }

    /// Takes what was written to a stream; whole lines go to the file.
    pub(super) fn take(&mut self, stream: OutputStream, bytes: &[u8]) -> io::Result<()> {
        let index = usize::from(stream == OutputStream::Stderr);
        let mut all = std::mem::take(&mut self.partial[index]);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        loop {
            let window = &rest[..rest.len().min(LINE_LIMIT)];
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                self.line(stream, &rest[..end])?;
                rest = &rest[end + 1..];
            } else if window.len() == LINE_LIMIT {
                self.line(stream, window)?;
                rest = &rest[LINE_LIMIT..];
            } else {
                self.partial[index] = rest.to_vec();
                return Ok(());
            }
        }
    }

    /// Writes lines that were not finished, since nothing more will come.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        for (index, stream) in [OutputStream::Stdout, OutputStream::Stderr].into_iter().enumerate()
        {
            let partial = std::mem::take(&mut self.partial[index]);
            if !partial.is_empty() {
                self.line(stream, &partial)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, stream: OutputStream, text: &[u8]) -> io::Result<()> {
        if self.size >= self.limit {
            std::fs::rename(&self.path, &self.previous)?;
            self.file = append(&self.path)?;
            self.size = 0;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let letter = match stream {
            OutputStream::Stdout => 'o',
            OutputStream::Stderr => 'e',
        };
        let mut line = format!("{now} {letter} ").into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// The reader: the last lines, and then what is added.
pub(super) struct LogReader {
    path: PathBuf,
    current: Option<File>,
    partial: Vec<u8>,
}

impl LogReader {
    /// The last `tail` lines, oldest first, and a reader that stands behind them.
    pub(super) fn open(place: &Place, tail: Option<u32>) -> io::Result<(VecDeque<LogLine>, Self)> {
        let path = place.at("log");
        let mut reader = Self { current: open(&path)?, path, partial: Vec::new() };
        let mut lines = VecDeque::new();
        let inode = |file: &File| file.metadata().map(|metadata| metadata.ino());
        if let Some(mut previous) = open(&place.at("log.1"))? {
            // If the file was moved aside after it was opened above, both are the same.
            let same = match &reader.current {
                Some(current) => inode(current)? == inode(&previous)?,
                None => false,
            };
            if !same {
                let mut bytes = Vec::new();
                previous.read_to_end(&mut bytes)?;
                lines.extend(bytes.split(|&byte| byte == b'\n').filter_map(parse));
            }
        }
        lines.extend(reader.added()?);
        if let Some(tail) = tail {
            let surplus = lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
            lines.drain(..surplus);
        }
        Ok((lines, reader))
    }

    /// The whole lines that were added since the last call.
    fn added(&mut self) -> io::Result<Vec<LogLine>> {
        let Some(file) = &mut self.current else { return Ok(Vec::new()) };
        file.read_to_end(&mut self.partial)?;
        let end = self.partial.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.partial.split_off(end);
        let whole = std::mem::replace(&mut self.partial, rest);
        Ok(whole.split(|&byte| byte == b'\n').filter_map(parse).collect())
    }

    /// Hands over lines as they are added, until the instance's directory is moved away, as it is on removal, or nobody listens any more.
    pub(super) async fn follow(
        mut self,
        place: &Place,
        to: &Sender<io::Result<LogLine>>,
    ) -> io::Result<()> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let events =
            WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVE_SELF;
        // Watched before it is read, so that nothing falls between.
        inotify::add_watch(&inotify, place.path(), events)?;
        let inotify = readable(inotify)?;
        loop {
            loop {
                for line in self.added()? {
                    if to.send(Ok(line)).await.is_err() {
                        return Ok(());
                    }
                }
                let there = open(&self.path)?;
                let moved = match (&self.current, &there) {
                    (Some(mine), Some(there)) => mine.metadata()?.ino() != there.metadata()?.ino(),
                    (None, Some(_)) => true,
                    (_, None) => false,
                };
                if !moved {
                    break;
                }
                // What was written to the old file before it was moved aside comes first.
                for line in self.added()? {
                    if to.send(Ok(line)).await.is_err() {
                        return Ok(());
                    }
                }
                self.current = there;
                self.partial.clear();
            }
            if !place.path().exists() {
                return Ok(());
            }
            tokio::select! {
                ready = inotify.readable() => {
                    let mut ready = ready?;
                    drain(&inotify)?;
                    ready.clear_ready();
                }
                () = to.closed() => return Ok(()),
            }
        }
    }
}

fn drain(inotify: &AsyncFd<std::os::fd::OwnedFd>) -> io::Result<()> {
    let mut buffer = [0_u8; 4096];
    loop {
        match rustix::io::read(inotify.get_ref(), &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(line: &[u8]) -> Option<LogLine> {
    if line.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    let mut parts = text.splitn(3, ' ');
    let (time, stream, rest) = (parts.next()?, parts.next(), parts.next());
    Some(match (time.parse(), stream, rest) {
        (Ok(time), Some(stream @ ("o" | "e")), Some(rest)) => LogLine {
            stream: if stream == "o" { OutputStream::Stdout } else { OutputStream::Stderr },
            text: rest.to_owned(),
            time: Some(UnixTime::from_millis(time)),
        },
        // Not written by a supervisor: shown as it is.
        _ => LogLine { stream: OutputStream::Stdout, text: text.into_owned(), time: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: impl IntoIterator<Item = LogLine>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_put_together_and_unfinished_ones_are_written_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path());
        let mut writer = LogWriter::open(&place).unwrap();
        writer.take(OutputStream::Stdout, b"one\ntw").unwrap();
        writer.take(OutputStream::Stderr, b"err\n").unwrap();
        writer.take(OutputStream::Stdout, b"o\n\nthree").unwrap();
        writer.finish().unwrap();
        let (lines, _) = LogReader::open(&place, None).unwrap();
        assert_eq!(lines[1].stream, OutputStream::Stderr);
        assert!(lines[0].time.is_some());
        assert_eq!(texts(lines), ["one", "err", "two", "", "three"]);
        let (last, _) = LogReader::open(&place, Some(2)).unwrap();
        assert_eq!(texts(last), ["", "three"]);
    }

    #[test]
    fn two_files_bound_what_is_kept_and_a_long_line_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path());
        let mut writer = LogWriter::with_limit(&place, 1000).unwrap();
        for number in 0..200 {
            writer.take(OutputStream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        }
        let size = |name| std::fs::metadata(place.at(name)).unwrap().len();
        assert!(size("log") <= 1100 && size("log.1") <= 1100);
        let (lines, _) = LogReader::open(&place, None).unwrap();
        let lines = texts(lines);
        assert_eq!(lines.last().unwrap(), "line 199");
        let first: usize = lines[0].strip_prefix("line ").unwrap().parse().unwrap();
        assert_eq!(lines.len(), 200 - first, "none is missing in between");

        writer.take(OutputStream::Stdout, &vec![b'x'; LINE_LIMIT + 10]).unwrap();
        writer.take(OutputStream::Stdout, b"\n").unwrap();
        let (lines, _) = LogReader::open(&place, Some(2)).unwrap();
        assert_eq!(texts(lines).iter().map(String::len).collect::<Vec<_>>(), [LINE_LIMIT, 10]);
    }

    #[tokio::test]
    async fn a_follower_sees_what_is_added_across_rotations_and_ends_with_the_instance() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path().join("instance"));
        std::fs::create_dir(place.path()).unwrap();
        let mut writer = LogWriter::with_limit(&place, 200).unwrap();
        writer.take(OutputStream::Stdout, b"before\n").unwrap();
        let (lines, reader) = LogReader::open(&place, None).unwrap();
        assert_eq!(texts(lines), ["before"]);
        let (send, mut receive) = tokio::sync::mpsc::channel(8);
        let followed = place.clone();
        let following = tokio::spawn(async move { reader.follow(&followed, &send).await });
        for number in 0..50 {
            writer.take(OutputStream::Stdout, format!("{number}\n").as_bytes()).unwrap();
            // One at a time: a reader that is two rotations behind has lost lines, as it would with any rotation.
            assert_eq!(receive.recv().await.unwrap().unwrap().text, number.to_string());
        }
        // As an instance is removed: moved aside first.
        std::fs::rename(place.path(), directory.path().join("gone")).unwrap();
        assert!(receive.recv().await.is_none());
        following.await.unwrap().unwrap();
    }
}
