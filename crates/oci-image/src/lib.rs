//! OCI images: names, registries, store, layer unpacking.
