//! The DNS server (in work).
