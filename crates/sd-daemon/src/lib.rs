//! sd_notify and socket activation, the service's side.
