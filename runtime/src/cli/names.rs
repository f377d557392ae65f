//! Names for containers without one.

const FIRST: [&str; 32] = [
    "agile", "amber", "brave", "breezy", "bright", "calm", "clever", "coastal", "crisp", "daring",
    "eager", "fair", "fleet", "gentle", "golden", "hardy", "keen", "lively", "lucid", "merry",
    "nimble", "patient", "proud", "quick", "quiet", "royal", "salty", "steady", "sunny", "swift",
    "tidal", "vivid",
];
const SECOND: [&str; 32] = [
    "anchor", "beacon", "bosun", "brig", "buoy", "clipper", "compass", "cutter", "dinghy", "dock",
    "ferry", "frigate", "galley", "harbor", "helm", "hull", "kayak", "keel", "ketch", "lagoon",
    "lugger", "mast", "oar", "pilot", "raft", "rudder", "sail", "schooner", "sloop", "trawler",
    "tug", "yawl",
];

/// A name made of an id's digits: two words and four digits, so that two are hardly ever the same.
pub fn random(id: &str) -> String {
    let part = |from: usize, to: usize| {
        id.get(from..to)
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .unwrap_or_default()
    };
    format!(
        "{}_{}_{}",
        FIRST[part(20, 24) % 32],
        SECOND[part(24, 28) % 32],
        id.get(28..32).unwrap_or("0000")
    )
}
