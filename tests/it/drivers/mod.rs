//! Tests of `drivers`.

mod faults;
mod files;
mod guest;
mod rack;
mod site;
mod workload;
