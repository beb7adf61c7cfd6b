//! The daemon as a program and a service: options, commands, privileges, state, signals. One program, so that short tests run
//! beside long ones.

mod bench;
mod commands;
mod config;
mod docs;
mod open_files;
mod privileges;
mod service;
mod shipped;
mod shutdown;
mod spawner;
mod state;
