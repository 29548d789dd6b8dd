//! Founding a cluster and taking it down, with a shell script in the place of `ployzd`.
