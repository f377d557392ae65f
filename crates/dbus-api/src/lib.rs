//! D-Bus interface types and client proxies for systemd1, login1 and org.flotilla.Init1.
