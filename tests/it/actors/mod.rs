//! The actors under virtual time: a paused clock that jumps to the next timer, a scripted world behind
//! the ports, and a service that can be killed at any instant.

#![allow(
    clippy::unchecked_time_subtraction,
    clippy::print_stdout,
    reason = "virtual time does not run backwards; long runs tell how fast they were"
)]

mod background;
mod cancellations;
mod deaths;
mod durability;
mod model;
mod outside;
mod plans;
mod restarts;
mod resync;
mod schedule;
mod scripted_store;
mod steps;
mod stopping;
mod testbed;
mod timers;
mod virtual_clock;
