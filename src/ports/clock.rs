//! The clock port.

use crate::domain::time::Timestamp;
use std::fmt::Debug;

/// Tells the time. The service has one that reads the system's clock; a test or a simulation brings
/// its own.
pub trait Clock: Send + Sync + Debug {
    /// The wall time.
    fn now(&self) -> Timestamp;
}
