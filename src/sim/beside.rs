//! The files that a scenario is read from: its own, and those that it names.

use std::io;
use std::path::Path;

/// The text of a file.
pub(super) fn text_of(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}
