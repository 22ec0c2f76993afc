//! Huge pages for the memory of a simulation. What a fleet is made of is spread over many pages, and a processor knows the
//! places of few small ones: with huge ones the actors of 1,000 VMs take two thirds of the time, and the loop four fifths.
//!
//! Only the C library can ask for them without code of our own that is unsafe, and it has to be told before a
//! program starts.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What glibc (2.35 and later) is tuned by.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Has `malloc` ask for transparent huge pages with `madvise`.
const HUGE_PAGES: &str = "glibc.malloc.hugetlb";

/// Starts this program again in its own place, with huge pages, unless whoever started it has decided on them. To be called
/// before it has done anything. Returns where there is nothing to be done, or it cannot be: the results are the same without.
pub fn use_huge_pages() {
    let tunables = env::var(TUNABLES).unwrap_or_default();
    if tunables.contains(HUGE_PAGES) {
        return;
    }
    let mut args = env::args_os();
    let (Ok(program), Some(name)) = (env::current_exe(), args.next()) else { return };
    let failed = Command::new(program)
        .arg0(name)
        .args(args)
        .env(TUNABLES, with_huge_pages(&tunables))
        .exec();
    tracing::debug!(error = %failed, "start again with huge pages");
}

fn with_huge_pages(tunables: &str) -> OsString {
    let separator = if tunables.is_empty() { "" } else { ":" };
    format!("{tunables}{separator}{HUGE_PAGES}=1").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tunables_stay() {
        assert_eq!(with_huge_pages(""), "glibc.malloc.hugetlb=1");
        let others = "glibc.malloc.arena_max=2";
        assert_eq!(with_huge_pages(others), "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1");
    }
}
