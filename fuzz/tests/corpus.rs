//! Every committed input of every target, without a fuzzer: what was once found stays mended.

use std::path::PathBuf;

/// The input that is at work. Its name is printed if it panics.
struct AtWork(PathBuf);

impl Drop for AtWork {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input: {}", self.0.display());
        }
    }
}

/// Runs each file of a target's corpus.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no input in {}", folder.display());
    for path in paths {
        let input = AtWork(path);
        run(&std::fs::read(&input.0).expect("it can be read"));
    }
}

macro_rules! corpora {
    ($($(#[$cfg:meta])* $target:ident),* $(,)?) => {
        $($(#[$cfg])* #[test] fn $target() { replay(stringify!($target), fuzz::$target::run); })*
    };
}

corpora!(
    story,
    manifest,
    api,
    facts,
    messages,
    routes,
    prepared,
    #[cfg(feature = "adapters")]
    dns
);
