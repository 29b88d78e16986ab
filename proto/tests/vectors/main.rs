//! The vectors of SPEC.md, which a generator in another language made from that text, against this implementation.

mod bounds;
mod cases;
mod codes;
mod coverage;
mod documents;
mod history;
mod leases;
mod log;
mod regenerate;
mod rule;
mod signatures;
mod trust;
