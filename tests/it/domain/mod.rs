//! The domain: decision tables, whole lives, retry classes, resynchronization, random histories, words for people.

mod addition;
mod catalogue;
mod consistency;
mod decisions;
mod ending;
mod entities;
mod failback;
mod failover;
mod health;
mod histories;
mod lives;
mod placement;
mod plans;
mod prerequisites;
mod resize;
mod resync;
mod retention;
mod retries;
mod scheduled;
mod statistics;
pub(crate) mod story;
mod test_failover;
mod tracking;
