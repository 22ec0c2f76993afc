//! The domain: decision tables, whole lives, retry classes, resynchronization, random histories, words for people.

mod catalogue;
mod decisions;
mod entities;
mod failover;
mod health;
mod histories;
mod lives;
mod resync;
mod retries;
mod story;
mod tracking;
