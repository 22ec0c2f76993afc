//! Lifeboat: self-hosted site recovery for virtual machines.
//!
//! The floors, lowest first; a module names only modules of lower floors (the README has the map).

pub mod domain;

pub mod ports;
pub mod views;

pub mod actors;
pub mod disk;
pub mod drivers;
pub mod replica;
pub mod replication;
pub mod store;

pub mod api;
pub mod replay;

pub mod sim;

pub mod service;

pub mod cli;
