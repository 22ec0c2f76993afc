//! The two file systems behind [`crate::ports::files`]: the machine's, and one in memory that can be
//! killed and can lose power.

mod memory;
mod real;

pub use memory::MemoryFiles;
pub use real::RealFiles;

/// Zeroes are written in pieces of this size where a file system cannot make them by itself: small
/// enough to stay in the processor's cache, large enough that the system call does not count.
const ZERO_PIECE: usize = 64 * 1024;

/// What is written where zeroes must be written.
static ZEROES: [u8; ZERO_PIECE] = [0; ZERO_PIECE];
