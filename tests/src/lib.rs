//! The harness that the tests of the whole node share: processes, ports, waiting. Internals of the crates are not for it.
