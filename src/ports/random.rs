//! The randomness port.

use std::fmt::Debug;

/// Makes bytes that nobody can guess. The service has one that asks the kernel; a test or a simulation
/// brings one that follows from a seed, and protects nothing.
pub trait Random: Send + Sync + Debug {
    /// Fills `bytes`. A system that has no randomness ends the process here: nothing that would go on
    /// could be kept secret.
    fn fill(&self, bytes: &mut [u8]);
}
