//! The domain: decision tables, whole lives, retry classes, random histories, words for people.

mod catalogue;
mod decisions;
mod entities;
mod failover;
mod health;
mod histories;
mod lives;
mod retries;
mod story;
mod tracking;
