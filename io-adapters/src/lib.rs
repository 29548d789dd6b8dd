//! io-adapters
