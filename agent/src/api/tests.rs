//! The api over real sockets: every endpoint, and everything it refuses.
