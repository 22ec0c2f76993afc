//! Who may send to the vault, and when: the vault asks before every object that it writes.

use futures_util::future::BoxFuture;
use std::any::Any;
use std::fmt::Debug;

/// Lets uploads pass: a limit of bandwidth, or of uploads at a time.
pub trait Admission: Send + Sync + Debug {
    /// Returns when an object of so many bytes may be sent; what it answers is held meanwhile.
    fn admit(&self, bytes: u64) -> BoxFuture<'_, Box<dyn Any + Send>>;
}
