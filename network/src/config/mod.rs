//! `.network` files: where they are, what they say, which link they are for.
//!
//! `ini` → `parse` → [`model::NetworkFile`]; `search` orders and masks; `matching` chooses. Nothing here knows the kernel.

pub mod ini;
mod keys;
pub mod matching;
pub mod model;
pub mod parse;
pub mod search;
pub mod values;

pub use matching::{HostFacts, LinkFacts, Virtualization, choose};
pub use model::{NetworkFile, Settings};
pub use values::Cidr;
