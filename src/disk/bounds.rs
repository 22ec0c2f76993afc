//! The one check of a range against the size of a disk.

use std::io;

/// Refuses a range that does not lie inside `size_bytes`.
pub(in crate::disk) fn check(size_bytes: u64, offset: u64, length: u64) -> io::Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size_bytes => Ok(()),
        Some(_) | None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("range of {length} bytes at byte {offset} ends beyond the disk's {size_bytes}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_range_ends_at_the_end_of_the_disk_at_the_latest() {
        assert!(check(1024, 512, 512).is_ok());
        assert!(check(1024, 1024, 0).is_ok());
        assert!(check(1024, 513, 512).is_err());
        assert!(check(1024, u64::MAX, 2).is_err());
    }
}
