//! Frames of the socket between PID 1 and its clients.
