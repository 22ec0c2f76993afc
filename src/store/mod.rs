//! The event store on sled.
