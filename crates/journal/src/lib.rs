//! The journal file format: reader and writer.
