//! The one place that asks the system for randomness.

use crate::ports::random::Random;
use ring::rand::{SecureRandom, SystemRandom};

/// The kernel's random bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelRandom;

impl Random for KernelRandom {
    fn fill(&self, bytes: &mut [u8]) {
        SystemRandom::new().fill(bytes).expect("the kernel has had randomness since it started");
    }
}
