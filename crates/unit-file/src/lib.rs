//! systemd unit files: names, escaping, specifiers, lossless parse and print, drop-ins, typed sections.
