//! cgroup v2 directories and control files.
