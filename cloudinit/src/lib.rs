//! flotilla-cloudinit: user data to machine.
//!
//! Start here. One run goes one way:
//!
//! ```text
//! datasource  ->  input::classify  ->  config (yaml tree, subst, typed fields)  ->  plan  ->  apply
//!  (I/O)           (pure)               (pure)                                     (pure)     (I/O)
//! ```
//!
//! * [`input`] tells documents, scripts and MIME messages apart and validates any of them;
//! * [`yaml`] reads text to a tree with places, [`subst`] puts addresses into it, [`config`] takes
//!   typed fields out and collects findings;
//! * [`plan`] turns a document and facts about the machine into a list of [`plan::Change`], which
//!   `--dry-run` prints and [`apply`] performs below a root directory;
//! * [`datasource`] knows where user-data comes from, [`stages`] what runs when at boot, [`cli`] the
//!   command line of the original and ours.
//!
//! Nothing is fetched once a plan is being made, and nothing but [`apply`] changes the machine.
//! Systems are not rolled back: every change is idempotent, the next boot does them all again.

#![forbid(unsafe_code)]

pub mod apply;
pub mod cli;
pub mod config;
pub mod datasource;
pub mod finding;
pub mod input;
pub mod metadata;
pub mod net;
pub mod netconf;
pub mod plan;
pub mod run;
pub mod stages;
pub mod subst;
pub mod yaml;
