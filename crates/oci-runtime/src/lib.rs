//! OCI containers: the Engine trait over libcontainer, plans for namespaces, mounts and devices.
