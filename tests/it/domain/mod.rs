//! The domain: decision tables, whole lives, retry classes, random histories, words for people.

mod catalogue;
mod consistency;
mod decisions;
mod entities;
mod failover;
mod health;
mod histories;
mod lives;
mod retention;
mod retries;
mod story;
mod tracking;
