//! The integration tests: one binary, a module per part of the product.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test says what it expects by failing"
)]

mod actors;
mod api;
mod cli;
mod disk;
mod domain;
mod drivers;
mod guest;
mod replay;
mod replica;
mod replication;
mod sim;
mod store;
mod views;
